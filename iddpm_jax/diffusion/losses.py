"""Training losses: L_simple, L_vlb and L_hybrid (Nichol & Dhariwal 2021, section 3).

Axis letters: B batch, H W C image, T diffusion steps. Losses are per example, `[B]`.
"""

import functools
import math

import jax
import jax.numpy as jnp

from iddpm_jax.diffusion.gaussian import (
    ModelFn,
    PMeanVariance,
    model_timestep,
    p_mean_variance,
    p_mean_variance_from_output,
    q_posterior_mean_variance,
    q_sample,
    split_output,
)
from iddpm_jax.diffusion.schedules import REFERENCE_NUM_TIMESTEPS
from iddpm_jax.diffusion.tables import GaussianDiffusion, LossType, MeanType


def mean_flat(x: jax.Array) -> jax.Array:
    """Mean over every axis but the first: `[B, …]` to `[B]`."""
    return x.mean(axis=tuple(range(1, x.ndim)))


def nats_to_bits(x: jax.Array) -> jax.Array:
    return x / math.log(2.0)


def normal_kl(mean1, logvar1, mean2, logvar2) -> jax.Array:
    """KL(N(mean1, e^logvar1) || N(mean2, e^logvar2)) per element, in nats."""
    return 0.5 * (
        -1.0
        + logvar2
        - logvar1
        + jnp.exp(logvar1 - logvar2)
        + jnp.square(mean1 - mean2) * jnp.exp(-logvar2)
    )


def approx_standard_normal_cdf(x: jax.Array) -> jax.Array:
    """Φ(x) by the tanh approximation that the reference uses (exact Φ gives other bits/dim)."""
    return 0.5 * (1.0 + _tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


@jax.custom_jvp
def _tanh(x: jax.Array) -> jax.Array:
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
    x: jax.Array, *, means: jax.Array, log_scales: jax.Array
) -> jax.Array:
    """log of the mass that a Gaussian gives to each 8-bit level (DDPM, eq. 13).

    Args:
      x: uint8 levels rescaled to [-1, 1], any shape.
      means: of the same shape.
      log_scales: log of the standard deviation, of the same shape.

    Returns:
      Log probabilities in nats, of x's shape. The outermost bins reach to infinity.
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


def _safe_log(probability: jax.Array) -> jax.Array:
    return jnp.log(jnp.maximum(probability, 1e-12))


def vb_terms_bpd(
    d: GaussianDiffusion,
    model_fn: ModelFn,
    x_start: jax.Array,
    x_t: jax.Array,
    t: jax.Array,
    clip_denoised: bool = True,
) -> tuple[jax.Array, jax.Array]:
    """One term of the variational bound (DDPM, eq. 5), in bits per dimension.

    Returns:
      KL(q(x_{t-1} | x_t, x_0) || p_θ(x_{t-1} | x_t)), at t = 0 the decoder's
      -log p_θ(x_0 | x_1), `[B]`; and the predicted x_0, `[B, H, W, C]`.
    """
    p = p_mean_variance(d, model_fn, x_t, t, clip_denoised=clip_denoised)
    return _vb_terms_from_p(d, p, x_start, x_t, t), p.pred_xstart


def _vb_terms_from_p(d: GaussianDiffusion, p: PMeanVariance, x_start, x_t, t) -> jax.Array:
    true_mean, _, true_log_variance = q_posterior_mean_variance(d, x_start, x_t, t)
    kl = normal_kl(true_mean, true_log_variance, p.mean, p.log_variance)
    decoder_nll = -discretized_gaussian_log_likelihood(
        x_start, means=p.mean, log_scales=0.5 * p.log_variance
    )
    return nats_to_bits(jnp.where(t == 0, mean_flat(decoder_nll), mean_flat(kl)))


@functools.singledispatch
def training_losses(
    d: GaussianDiffusion,
    model_fn: ModelFn,
    x_start: jax.Array,
    t: jax.Array,
    noise: jax.Array,
) -> dict[str, jax.Array]:
    """The loss of each example at its timestep.

    Args:
      model_fn: `(x_t [B, H, W, C], timestep [B] float32) -> output`; called once.
      x_start: `[B, H, W, C]`, in [-1, 1].
      t: int32 `[B]`.
      noise: standard normal, of x_start's shape.

    Returns:
      A dict of `[B]` arrays: `loss`, and, unless the loss is the bound alone, `mse` (the
      prediction's squared error) and, where the variance is learned, `vb` (the weighted
      bound, bits per dimension). With L_hybrid the gradient of `vb` reaches the variance
      half of the network's output only (IDDPM, section 3.1).
    """
    x_t = q_sample(d, x_start, t, noise)
    output = model_fn(x_t, model_timestep(d, t))

    if d.loss_type.is_vb:
        p = p_mean_variance_from_output(d, output, x_t, t, clip_denoised=False)
        loss = _vb_terms_from_p(d, p, x_start, x_t, t)
        # T terms of which one is drawn: T times it estimates the whole bound.
        scale = d.num_timesteps if d.loss_type is LossType.RESCALED_KL else 1
        return {"loss": loss * scale}

    mean_output, var_output = split_output(d, output, x_t)
    terms = {"mse": mean_flat(jnp.square(_mean_target(d, x_start, x_t, t, noise) - mean_output))}
    if var_output is not None:
        frozen = jnp.concatenate([jax.lax.stop_gradient(mean_output), var_output], axis=-1)
        p = p_mean_variance_from_output(d, frozen, x_t, t, clip_denoised=False)
        # λ of L_hybrid: T / 1000 makes it 0.001 times the whole bound for every T.
        rescaled = d.loss_type is LossType.RESCALED_MSE
        weight = d.num_timesteps / REFERENCE_NUM_TIMESTEPS if rescaled else 1.0
        terms["vb"] = _vb_terms_from_p(d, p, x_start, x_t, t) * weight
    return {"loss": sum(terms.values()), **terms}


@functools.singledispatch
def training_loss_names(d: GaussianDiffusion) -> tuple[str, ...]:
    """The keys of what `training_losses` returns."""
    if d.loss_type.is_vb:
        return ("loss",)
    return ("loss", "mse", "vb") if d.var_type.is_learned else ("loss", "mse")


def _mean_target(d: GaussianDiffusion, x_start, x_t, t, noise) -> jax.Array:
    if d.mean_type is MeanType.EPSILON:
        return noise
    if d.mean_type is MeanType.X_START:
        return x_start
    return q_posterior_mean_variance(d, x_start, x_t, t)[0]
