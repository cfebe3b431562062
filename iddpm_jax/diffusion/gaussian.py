"""The Gaussian diffusion process q and the learned reverse process p_θ.

Axis letters: B batch, H W C image, T diffusion steps. Images may have any number of
spatial axes; channels come last. `t` is int32 `[B]`, 0 being the step next to the data,
so `t` here is t - 1 in the papers.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from iddpm_jax.diffusion.shapes import (
    DenoisedFn,
    Images,
    ImagesLike,
    ModelFn,
    OutputsLike,
    PerImage,
    PerStep,
    StepsLike,
)
from iddpm_jax.diffusion.tables import GaussianDiffusion, MeanType, VarType
from iddpm_jax.errors import UsageError


def lookup(table: PerStep, t: Int[Array | np.ndarray, "*shape"]) -> Float[Array, "*shape"]:
    """`table[t]`; NaN where t is not a step from 0 to T - 1.

    Indexing alone would give another step's entry: the last one for too large a t, and for a
    negative one what is so far from the end.
    """
    return table.at[t].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


def extract(table: PerStep, t: StepsLike, ndim: int) -> Float[Array, " b *ones"]:
    """Entries of a table at steps t, shaped to broadcast over images.

    Args:
      ndim: axes of the images, batch included.

    Returns:
      `[B, 1, …, 1]` of `ndim` axes; NaN where t is not a step from 0 to T - 1.
    """
    return lookup(table, t).reshape(t.shape + (1,) * (ndim - 1))


def model_timestep(d: GaussianDiffusion, t: StepsLike) -> PerImage:
    """The timestep, a float32, that the network is called with at step `t`.

    Respacing and the scaling to 1000 steps are both inside the table, and this is the only
    place that reads it. NaN where t is not a step from 0 to T - 1.
    """
    return lookup(d.model_timesteps, t)


def q_sample(d: GaussianDiffusion, x_start: ImagesLike, t: StepsLike, noise: ImagesLike) -> Images:
    """Draws x_t ~ q(x_t | x_0) = √ᾱ_t x_0 + √(1 - ᾱ_t) ε (DDPM, eq. 4).

    Args:
      x_start: in [-1, 1].
      t: from 0 to T - 1.
      noise: ε, standard normal.
    """
    return (
        extract(d.sqrt_alphas_cumprod, t, x_start.ndim) * x_start
        + extract(d.sqrt_one_minus_alphas_cumprod, t, x_start.ndim) * noise
    )


def q_mean_variance(
    d: GaussianDiffusion, x_start: ImagesLike, t: StepsLike
) -> tuple[Images, Images, Images]:
    """Mean, variance and log variance of q(x_t | x_0)."""
    mean = extract(d.sqrt_alphas_cumprod, t, x_start.ndim) * x_start
    variance = extract(d.one_minus_alphas_cumprod, t, x_start.ndim)
    log_variance = extract(d.log_one_minus_alphas_cumprod, t, x_start.ndim)
    return (
        mean,
        jnp.broadcast_to(variance, x_start.shape),
        jnp.broadcast_to(log_variance, x_start.shape),
    )


def q_posterior_mean_variance(
    d: GaussianDiffusion, x_start: ImagesLike, x_t: ImagesLike, t: StepsLike
) -> tuple[Images, Images, Images]:
    """Mean, variance and clipped log variance of q(x_{t-1} | x_t, x_0) (DDPM, eq. 6 and 7)."""
    mean = (
        extract(d.posterior_mean_coef1, t, x_t.ndim) * x_start
        + extract(d.posterior_mean_coef2, t, x_t.ndim) * x_t
    )
    variance = extract(d.posterior_variance, t, x_t.ndim)
    log_variance = extract(d.posterior_log_variance_clipped, t, x_t.ndim)
    return mean, jnp.broadcast_to(variance, x_t.shape), jnp.broadcast_to(log_variance, x_t.shape)


def predict_xstart_from_eps(
    d: GaussianDiffusion, x_t: ImagesLike, t: StepsLike, eps: ImagesLike
) -> Images:
    """x_0 = √(1/ᾱ_t) x_t - √(1/ᾱ_t - 1) ε: `q_sample` solved for x_0."""
    return (
        extract(d.sqrt_recip_alphas_cumprod, t, x_t.ndim) * x_t
        - extract(d.sqrt_recipm1_alphas_cumprod, t, x_t.ndim) * eps
    )


def predict_eps_from_xstart(
    d: GaussianDiffusion, x_t: ImagesLike, t: StepsLike, xstart: ImagesLike
) -> Images:
    """ε = (√(1/ᾱ_t) x_t - x_0) / √(1/ᾱ_t - 1): `q_sample` solved for ε."""
    return (extract(d.sqrt_recip_alphas_cumprod, t, x_t.ndim) * x_t - xstart) / extract(
        d.sqrt_recipm1_alphas_cumprod, t, x_t.ndim
    )


def predict_xstart_from_xprev(
    d: GaussianDiffusion, x_t: ImagesLike, t: StepsLike, xprev: ImagesLike
) -> Images:
    """x_0 for which the mean of q(x_{t-1} | x_t, x_0) is `xprev`."""
    return (
        extract(d.xstart_from_xprev_coef1, t, x_t.ndim) * xprev
        - extract(d.xstart_from_xprev_coef2, t, x_t.ndim) * x_t
    )


class PMeanVariance(NamedTuple):
    """p_θ(x_{t-1} | x_t) and the x_0 it implies, each of x_t's shape."""

    mean: Images
    variance: Images
    log_variance: Images
    pred_xstart: Images


def p_mean_variance(
    d: GaussianDiffusion,
    model_fn: ModelFn,
    x_t: ImagesLike,
    t: StepsLike,
    clip_denoised: bool = True,
    denoised_fn: DenoisedFn | None = None,
) -> PMeanVariance:
    """Calls the network and turns its output into p_θ(x_{t-1} | x_t).

    Args:
      model_fn: `(x_t [B, H, W, C], timestep [B] float32) -> [B, H, W, C or 2C]`, twice the
        channels where the variance is learned: first the mean's half, then the variance's.
      clip_denoised: clip the predicted x_0 to [-1, 1].
      denoised_fn: applied to the predicted x_0 before it is clipped.
    """
    output = model_fn(jnp.asarray(x_t), model_timestep(d, t))
    return p_mean_variance_from_output(d, output, x_t, t, clip_denoised, denoised_fn)


def p_mean_variance_from_output(
    d: GaussianDiffusion,
    output: OutputsLike,
    x_t: ImagesLike,
    t: StepsLike,
    clip_denoised: bool = True,
    denoised_fn: DenoisedFn | None = None,
) -> PMeanVariance:
    """`p_mean_variance` for a network output that is already there."""
    mean_output, var_output = split_output(d, output, x_t)
    variance, log_variance = _model_variance(d, var_output, x_t, t)

    if d.mean_type is MeanType.EPSILON:
        pred_xstart = predict_xstart_from_eps(d, x_t, t, mean_output)
    elif d.mean_type is MeanType.X_PREV:
        pred_xstart = predict_xstart_from_xprev(d, x_t, t, mean_output)
    else:
        pred_xstart = mean_output
    if denoised_fn is not None:
        pred_xstart = denoised_fn(pred_xstart)
    if clip_denoised:
        pred_xstart = jnp.clip(pred_xstart, -1.0, 1.0)

    if d.mean_type is MeanType.X_PREV:
        mean = mean_output
    else:
        mean, _, _ = q_posterior_mean_variance(d, pred_xstart, x_t, t)
    return PMeanVariance(mean, variance, log_variance, pred_xstart)


def split_output(
    d: GaussianDiffusion, output: OutputsLike, x_t: ImagesLike
) -> tuple[Images, Images | None]:
    """Cuts the network's output into its mean half and, where learned, its variance half.

    Raises:
      UsageError: the number of channels is not C, or 2C where the variance is learned.
    """
    channels = x_t.shape[-1]
    expected = (*x_t.shape[:-1], 2 * channels if d.var_type.is_learned else channels)
    if output.shape != expected:
        raise UsageError(
            f"the network returned shape {output.shape}, but var_type={d.var_type} "
            f"with inputs of shape {x_t.shape} needs {expected}"
        )
    output = jnp.asarray(output)
    if not d.var_type.is_learned:
        return output, None
    return output[..., :channels], output[..., channels:]


def _model_variance(
    d: GaussianDiffusion, var_output: Images | None, x_t: ImagesLike, t: StepsLike
) -> tuple[Images, Images]:
    """The variance and its logarithm; `var_output` is None where the variance is fixed."""
    if var_output is None:
        if d.var_type is VarType.FIXED_LARGE:
            variance, log_variance = d.fixed_large_variance, d.fixed_large_log_variance
        else:
            variance, log_variance = d.posterior_variance, d.posterior_log_variance_clipped
        return (
            jnp.broadcast_to(extract(variance, t, x_t.ndim), x_t.shape),
            jnp.broadcast_to(extract(log_variance, t, x_t.ndim), x_t.shape),
        )
    if d.var_type is VarType.LEARNED:
        return jnp.exp(var_output), var_output
    # IDDPM, eq. 15. The output v in [-1, 1] is mapped to [0, 1]; it is not clipped.
    min_log = extract(d.posterior_log_variance_clipped, t, x_t.ndim)
    max_log = extract(d.log_betas, t, x_t.ndim)
    fraction = (var_output + 1) / 2
    log_variance = fraction * max_log + (1 - fraction) * min_log
    return jnp.exp(log_variance), log_variance
