"""The full variational bound on -log p(x_0), in bits per dimension.

Axis letters: B batch, H W C image, T diffusion steps.
"""

import jax
import jax.numpy as jnp

from iddpm_jax.diffusion.gaussian import (
    ModelFn,
    predict_eps_from_xstart,
    q_mean_variance,
    q_sample,
)
from iddpm_jax.diffusion.losses import mean_flat, nats_to_bits, normal_kl, vb_terms_bpd
from iddpm_jax.diffusion.noise import per_sample_keys, per_sample_noise
from iddpm_jax.diffusion.tables import GaussianDiffusion
from iddpm_jax.errors import UsageError


def prior_bpd(d: GaussianDiffusion, x_start: jax.Array) -> jax.Array:
    """KL(q(x_T | x_0) || N(0, I)): `[B, H, W, C]` to bits per dimension `[B]`."""
    t = jnp.full(x_start.shape[0], d.num_timesteps - 1, jnp.int32)
    mean, _, log_variance = q_mean_variance(d, x_start, t)
    return nats_to_bits(mean_flat(normal_kl(mean, log_variance, 0.0, 0.0)))


def bpd_loop(
    d: GaussianDiffusion,
    model_fn: ModelFn,
    x_start: jax.Array,
    key: jax.Array | None = None,
    *,
    noises: jax.Array | None = None,
    clip_denoised: bool = True,
) -> dict[str, jax.Array]:
    """Every term of the bound of every image, as one `lax.scan` over t = T-1 … 0.

    Args:
      model_fn: `(x_t [B, H, W, C], timestep [B] float32) -> output`.
      x_start: uint8 levels rescaled to [-1, 1], `[B, H, W, C]`.
      key: one random key, or `[B]` keys, one for each image.
      noises: instead of a key, the noise itself, `[T, B, H, W, C]`: `noises[i]` is used at
        t = T - 1 - i.
      clip_denoised: clip the predicted x_0 to [-1, 1].

    Returns:
      `total_bpd` `[B]` and `prior_bpd` `[B]`; `vb` (terms of the bound, bits per
      dimension), `xstart_mse` and `mse` (of the implied ε), `[B, T]` with columns in the
      order of the loop, t = T-1 first.

    Raises:
      UsageError: not exactly one of `key` and `noises` is given.
    """
    timesteps = jnp.arange(d.num_timesteps - 1, -1, -1, dtype=jnp.int32)
    terms = bpd_terms(
        d, model_fn, x_start, timesteps, key, noises=noises, clip_denoised=clip_denoised
    )
    prior = prior_bpd(d, x_start)
    return {"total_bpd": terms["vb"].sum(axis=1) + prior, "prior_bpd": prior, **terms}


def bpd_terms(
    d: GaussianDiffusion,
    model_fn: ModelFn,
    x_start: jax.Array,
    timesteps: jax.Array,
    key: jax.Array | None = None,
    *,
    noises: jax.Array | None = None,
    clip_denoised: bool = True,
) -> dict[str, jax.Array]:
    """The terms of the bound at some timesteps, as one `lax.scan` over these.

    A term does not depend on which others are computed with it, nor on their order.

    Args:
      timesteps: int32 `[K]`.
      noises: instead of a key, the noise itself, `[K, B, H, W, C]`.
      model_fn, x_start, key, clip_denoised: as for `bpd_loop`.

    Returns:
      `vb`, `xstart_mse` and `mse` of `bpd_loop`, `[B, K]`, a column for each timestep.

    Raises:
      UsageError: not exactly one of `key` and `noises` is given.
    """
    if (key is None) == (noises is None):
        raise UsageError("the bound needs a key or the noises, and not both")
    batch = x_start.shape[0]
    keys = None if key is None else per_sample_keys(key, batch)

    def one_timestep(_, inputs):
        t_scalar, noise = inputs
        if noise is None:
            noise = per_sample_noise(keys, t_scalar, x_start.shape[1:])
        t = jnp.full(batch, t_scalar)
        x_t = q_sample(d, x_start, t, noise)
        vb, pred_xstart = vb_terms_bpd(d, model_fn, x_start, x_t, t, clip_denoised)
        eps = predict_eps_from_xstart(d, x_t, t, pred_xstart)
        xstart_mse = mean_flat(jnp.square(pred_xstart - x_start))
        return None, (vb, xstart_mse, mean_flat(jnp.square(eps - noise)))

    _, columns = jax.lax.scan(one_timestep, None, (timesteps, noises))
    names = ("vb", "xstart_mse", "mse")
    return {name: column.T for name, column in zip(names, columns, strict=True)}
