"""Dynamic loss scaling, with which gradients do not underflow in float16.

The loss is multiplied by a scale before its gradient is taken, and the gradient divided by it. The
scale grows slowly, and is halved whenever something overflows, in a step that is then skipped
(Micikevicius et al. 2018, section 3.2, with the constants of improved-diffusion).
"""

from typing import Any

import jax
import jax.numpy as jnp

_INITIAL = 20.0  # log2 of the first scale.
_GROWTH = 1e-3  # Added to it by every step that is applied.


def initial(dtype: Any) -> jax.Array | None:
    """log2 of the scale before the first step, float32; None where `dtype` needs no scaling."""
    return jnp.asarray(_INITIAL, jnp.float32) if dtype == jnp.float16 else None


def scaled(loss: jax.Array, log2_scale: jax.Array | None) -> jax.Array:
    return loss if log2_scale is None else loss * jnp.exp2(log2_scale)


def unscaled(grads: Any, log2_scale: jax.Array | None) -> Any:
    if log2_scale is None:
        return grads
    return jax.tree.map(lambda g: g * jnp.exp2(-log2_scale), grads)


def adjusted(log2_scale: jax.Array | None, finite: jax.Array) -> jax.Array | None:
    """The scale of the next step, by whether this one was finite."""
    if log2_scale is None:
        return None
    return jnp.where(finite, log2_scale + _GROWTH, log2_scale - 1)


def alive(log2_scale: jax.Array | None) -> jax.Array:
    """Whether it is still at least 1: below, gradients are lost that float16 has room for."""
    return jnp.asarray(True) if log2_scale is None else log2_scale >= 0
