"""Pixels: 0 … 255 on disk and up to the device, [-1, 1] for networks and the diffusion process."""

from typing import overload

import jax
import jax.numpy as jnp
import numpy as np


@overload
def to_float(images: np.ndarray) -> np.ndarray: ...
@overload
def to_float(images: jax.Array) -> jax.Array: ...
def to_float(images: np.ndarray | jax.Array) -> np.ndarray | jax.Array:
    """Images of uint8, 0 … 255, to float32 in [-1, 1].

    An array of numpy gives one of numpy. One of JAX may differ from it in the last bit: XLA
    multiplies by the reciprocal.
    """
    return images.astype(np.float32) / 127.5 - 1


def to_uint8(x: jax.Array | np.ndarray) -> jax.Array:
    """Images in [-1, 1] to uint8, as the reference does it: scaled, clipped, cut off."""
    return jnp.clip((x + 1) * 127.5, 0, 255).astype(jnp.uint8)
