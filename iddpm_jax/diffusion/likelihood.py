"""The variational bound on -log p(x_0), in bits per dimension, and what it is made of.

Axis letters: B batch, H W C image, T diffusion steps.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from iddpm_jax.diffusion.gaussian import (
    PMeanVariance,
    p_mean_variance,
    predict_eps_from_xstart,
    q_mean_variance,
    q_posterior_mean_variance,
    q_sample,
)
from iddpm_jax.diffusion.noise import per_sample_keys, per_sample_noise
from iddpm_jax.diffusion.shapes import Images, ImagesLike, KeysLike, ModelFn, PerImage, StepsLike
from iddpm_jax.diffusion.tables import GaussianDiffusion
from iddpm_jax.errors import UsageError

Values = Float[Array, "*shape"]
ValuesLike = Float[Array | np.ndarray, "*shape"]


def mean_flat(x: Float[Array | np.ndarray, " b *rest"]) -> PerImage:
    """Mean over every axis but the first."""
    return jnp.asarray(x).mean(axis=tuple(range(1, x.ndim)))


def nats_to_bits(x: Values) -> Values:
    """x / ln 2."""
    return x / math.log(2.0)


def normal_kl(
    mean1: Values, logvar1: Values, mean2: Values | float, logvar2: Values | float
) -> Values:
    """KL(N(mean1, e^logvar1) || N(mean2, e^logvar2)) per element, in nats."""
    return 0.5 * (
        -1.0
        + logvar2
        - logvar1
        + jnp.exp(logvar1 - logvar2)
        + jnp.square(mean1 - mean2) * jnp.exp(-logvar2)
    )


def approx_standard_normal_cdf(x: ValuesLike) -> Values:
    """Φ(x) by the tanh approximation that the reference uses (exact Φ gives other bits/dim)."""
    return 0.5 * (1.0 + _tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


@jax.custom_jvp
def _tanh(x: ValuesLike) -> Values:
    """tanh, rounded to the last bit where it saturates.

    The likelihood of a bin far from the mean is the difference of two values of tanh next to
    ±1. XLA's tanh is off by up to four units in the last place there, which is as much as
    the difference itself and would turn its logarithm into noise.
    """
    decay = jnp.exp(-2.0 * jnp.abs(x))
    saturating = jnp.sign(x) * (1.0 - 2.0 * decay / (1.0 + decay))
    return jnp.where(jnp.abs(x) < 0.5, jnp.tanh(x), saturating)


@_tanh.defjvp
def _tanh_jvp(primals, tangents):
    # 1 - tanh² of the rounded value, as the reference differentiates: the slope then has the
    # rounding of the difference that it is divided by, and ends where that is clipped.
    y = _tanh(*primals)
    return y, (1.0 - y) * (1.0 + y) * tangents[0]


def discretized_gaussian_log_likelihood(
    x: ValuesLike, *, means: ValuesLike, log_scales: ValuesLike
) -> Values:
    """log of the mass that a Gaussian gives to each 8-bit level (DDPM, eq. 13).

    Args:
      x: uint8 levels rescaled to [-1, 1].
      log_scales: log of the standard deviation.

    Returns:
      Log probabilities in nats. The outermost bins reach to infinity.
    """
    centered = x - means
    inv_std = jnp.exp(-log_scales)
    cdf_plus = approx_standard_normal_cdf(inv_std * (centered + 1.0 / 255.0))
    cdf_minus = approx_standard_normal_cdf(inv_std * (centered - 1.0 / 255.0))
    log_cdf_plus = _safe_log(cdf_plus)
    log_one_minus_cdf_minus = _safe_log(1.0 - cdf_minus)
    log_cdf_delta = _safe_log(cdf_plus - cdf_minus)
    return jnp.where(
        x < -0.999,
        log_cdf_plus,
        jnp.where(x > 0.999, log_one_minus_cdf_minus, log_cdf_delta),
    )


def _safe_log(probability: Values) -> Values:
    return jnp.log(jnp.maximum(probability, 1e-12))


def vb_terms_bpd(
    d: GaussianDiffusion,
    model_fn: ModelFn,
    x_start: ImagesLike,
    x_t: ImagesLike,
    t: StepsLike,
    clip_denoised: bool = True,
) -> tuple[PerImage, Images]:
    """One term of the variational bound (DDPM, eq. 5), in bits per dimension.

    Returns:
      KL(q(x_{t-1} | x_t, x_0) || p_θ(x_{t-1} | x_t)), at t = 0 the decoder's
      -log p_θ(x_0 | x_1); and the predicted x_0.
    """
    p = p_mean_variance(d, model_fn, x_t, t, clip_denoised=clip_denoised)
    return vb_terms_bpd_from(d, p, x_start, x_t, t), p.pred_xstart


def vb_terms_bpd_from(
    d: GaussianDiffusion, p: PMeanVariance, x_start: ImagesLike, x_t: ImagesLike, t: StepsLike
) -> PerImage:
    """`vb_terms_bpd` of a p_θ(x_{t-1} | x_t) that is known: bits per dimension."""
    true_mean, _, true_log_variance = q_posterior_mean_variance(d, x_start, x_t, t)
    kl = normal_kl(true_mean, true_log_variance, p.mean, p.log_variance)
    decoder_nll = -discretized_gaussian_log_likelihood(
        x_start, means=p.mean, log_scales=0.5 * p.log_variance
    )
    return nats_to_bits(jnp.where(t == 0, mean_flat(decoder_nll), mean_flat(kl)))


def prior_bpd(d: GaussianDiffusion, x_start: ImagesLike) -> PerImage:
    """KL(q(x_T | x_0) || N(0, I)) in bits per dimension."""
    t = jnp.full(x_start.shape[0], d.num_timesteps - 1, jnp.int32)
    mean, _, log_variance = q_mean_variance(d, x_start, t)
    return nats_to_bits(mean_flat(normal_kl(mean, log_variance, 0.0, 0.0)))


def bpd_loop(
    d: GaussianDiffusion,
    model_fn: ModelFn,
    x_start: ImagesLike,
    key: KeysLike | None = None,
    *,
    noises: Float[Array | np.ndarray, "T b *spatial c"] | None = None,
    clip_denoised: bool = True,
) -> dict[str, PerImage | Float[Array, "b T"]]:
    """Every term of the bound of every image, as one `lax.scan` over t = T-1 … 0.

    Args:
      x_start: uint8 levels rescaled to [-1, 1].
      key: one random key, or one for each image.
      noises: instead of a key, the noise itself: `noises[i]` is used at t = T - 1 - i.
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
    x_start: ImagesLike,
    timesteps: Int[Array | np.ndarray, " K"],
    key: KeysLike | None = None,
    *,
    noises: Float[Array | np.ndarray, "K b *spatial c"] | None = None,
    clip_denoised: bool = True,
) -> dict[str, Float[Array, "b K"]]:
    """The terms of the bound at some timesteps, as one `lax.scan` over these.

    A term does not depend on which others are computed with it, nor on their order.

    Args:
      timesteps: from 0 to T - 1.
      noises: instead of a key, the noise itself.
      model_fn, x_start, key, clip_denoised: as for `bpd_loop`.

    Returns:
      `vb`, `xstart_mse` and `mse` of `bpd_loop`, a column for each timestep.

    Raises:
      UsageError: not exactly one of `key` and `noises` is given.
    """
    if (key is None) == (noises is None):
        raise UsageError("the bound needs a key or the noises, and not both")
    batch = x_start.shape[0]
    keys = None if key is None else per_sample_keys(key, batch)

    def one_timestep(_, inputs):
        t_scalar, noise = inputs
        if keys is not None:
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
