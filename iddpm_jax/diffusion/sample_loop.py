"""The loop that runs the steps of any sampler, whole or in parts.

Axis letters: B batch, H W C image, T diffusion steps, S some of them.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from iddpm_jax.diffusion.noise import per_sample_keys, per_sample_noise
from iddpm_jax.diffusion.sampler_step import SamplerStep, declared, needs_noise, takes
from iddpm_jax.diffusion.samplers import ddpm_step
from iddpm_jax.diffusion.shapes import Images, ImagesLike, Keys, KeysLike, ModelFn
from iddpm_jax.diffusion.tables import GaussianDiffusion
from iddpm_jax.errors import UsageError


def sample_loop(
    d: GaussianDiffusion,
    model_fn: ModelFn,
    x_T: ImagesLike,  # noqa: N803 (the papers' name)
    key: KeysLike | None = None,
    step: SamplerStep = ddpm_step,
    *,
    noises: Float[Array | np.ndarray, "T b *spatial c"] | None = None,
    **step_options: Any,
) -> Images:
    """Runs `step` from t = T-1 down to 0 as one `lax.scan`.

    Args:
      model_fn: see `shapes.ModelFn`.
      x_T: standard normal.
      key: a random key, from which sample i derives its own by folding in i; or keys, one for
        each sample. Either way a sample does not depend on its batch. Not needed where
        the step needs no noise.
      step: `ddpm_step`, `ddim_step` or any other `SamplerStep`.
      noises: instead of a key, the noise of each step taken.
      **step_options: passed on to `step`, such as `eta`.

    Returns:
      x_0.

    Raises:
      UsageError: the step needs noise and there is neither `key` nor `noises`, or both are given.
    """
    nothing_drawn_from = key is None and noises is None and needs_noise(step, **step_options)
    if nothing_drawn_from or not (key is None or noises is None):
        raise UsageError("sample_loop needs a key or the noises, and not both")
    keys = None if key is None else per_sample_keys(key, x_T.shape[0])
    timesteps = jnp.arange(d.num_timesteps - 1, -1, -1, dtype=jnp.int32)
    carry = first_carry(step, x_T)
    x_0, *_ = sample_steps(d, model_fn, carry, timesteps, keys, step, noises, **step_options)
    return x_0


def first_carry(step: SamplerStep, x_T: ImagesLike) -> tuple[Any, ...]:  # noqa: N803
    """What `sample_steps` starts with: x_T, zeros for the x_0 predicted last, and a memory."""
    x_T, first_memory = jnp.asarray(x_T), declared(step).first_memory  # noqa: N806
    return (x_T, jnp.zeros_like(x_T), *([first_memory(x_T)] if first_memory else []))


def sample_steps(
    d: GaussianDiffusion,
    model_fn: ModelFn,
    carry: tuple[Any, ...],
    timesteps: Int[Array | np.ndarray, " S"],
    keys: Keys | None,
    step: SamplerStep = ddpm_step,
    noises: Float[Array | np.ndarray, "S b *spatial c"] | None = None,
    **step_options: Any,
) -> tuple[Any, ...]:
    """A part of `sample_loop`: the given timesteps, one after the other.

    Args:
      carry: x_t and the x_0 predicted last, `[B, H, W, C]` each, and the memory of a step that
        has one; at the start it is that of `first_carry`.
      keys: one for each sample; None where `noises` are given, or the step needs none.

    Returns:
      The carry after the last of them.
    """
    batch = carry[0].shape[0]
    draws = noises is None and needs_noise(step, **step_options)
    looks_back = takes(step, "last_xstart")

    def one_step(carry, inputs):
        x_t, last_xstart, *memory = carry
        t, noise = inputs
        if draws and keys is not None:
            noise = per_sample_noise(keys, t, x_t.shape[1:])
        remembered = {"last_xstart": last_xstart} if looks_back else {}
        remembered |= {"memory": memory[0]} if memory else {}
        options = {**remembered, **step_options}
        return step(d, model_fn, x_t, jnp.full(batch, t), noise, **options), None

    carry, _ = jax.lax.scan(one_step, carry, (timesteps, noises))
    return carry
