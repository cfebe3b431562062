"""Training losses: L_simple, L_vlb and L_hybrid (Nichol & Dhariwal 2021, section 3).

Axis letters: B batch, H W C image, T diffusion steps. Losses are per example, `[B]`.
"""

import jax
import jax.numpy as jnp

from iddpm_jax.diffusion.gaussian import (
    model_timestep,
    p_mean_variance_from_output,
    q_posterior_mean_variance,
    q_sample,
    split_output,
)
from iddpm_jax.diffusion.likelihood import mean_flat, vb_terms_bpd_from
from iddpm_jax.diffusion.schedules import REFERENCE_NUM_TIMESTEPS
from iddpm_jax.diffusion.shapes import Images, ImagesLike, ModelFn, PerImage, StepsLike
from iddpm_jax.diffusion.tables import GaussianDiffusion, LossType, MeanType


def training_losses(
    d: GaussianDiffusion,
    model_fn: ModelFn,
    x_start: ImagesLike,
    t: StepsLike,
    noise: ImagesLike,
) -> dict[str, PerImage]:
    """The loss of each example at its timestep.

    Args:
      model_fn: called once.
      x_start: images in [-1, 1].
      noise: standard normal.

    Returns:
      `loss`, and, unless the loss is the bound alone, `mse` (the
      prediction's squared error) and, where the variance is learned, `vb` (the weighted
      bound, bits per dimension). With L_hybrid the gradient of `vb` reaches the variance
      half of the network's output only (IDDPM, section 3.1).
    """
    x_t = q_sample(d, x_start, t, noise)
    output = model_fn(x_t, model_timestep(d, t))

    if d.loss_type.is_vb:
        p = p_mean_variance_from_output(d, output, x_t, t, clip_denoised=False)
        loss = vb_terms_bpd_from(d, p, x_start, x_t, t)
        # T terms of which one is drawn: T times it estimates the whole bound.
        scale = d.num_timesteps if d.loss_type is LossType.RESCALED_KL else 1
        return {"loss": loss * scale}

    mean_output, var_output = split_output(d, output, x_t)
    mse = mean_flat(jnp.square(_mean_target(d, x_start, x_t, t, noise) - mean_output))
    if var_output is None:
        return {"loss": mse, "mse": mse}
    frozen = jnp.concatenate([jax.lax.stop_gradient(mean_output), var_output], axis=-1)
    p = p_mean_variance_from_output(d, frozen, x_t, t, clip_denoised=False)
    # λ of L_hybrid: T / 1000 makes it 0.001 times the whole bound for every T.
    rescaled = d.loss_type is LossType.RESCALED_MSE
    weight = d.num_timesteps / REFERENCE_NUM_TIMESTEPS if rescaled else 1.0
    vb = vb_terms_bpd_from(d, p, x_start, x_t, t) * weight
    return {"loss": mse + vb, "mse": mse, "vb": vb}


def training_loss_names(d: GaussianDiffusion) -> tuple[str, ...]:
    """The keys of what `training_losses` returns."""
    if d.loss_type.is_vb:
        return ("loss",)
    return ("loss", "mse", "vb") if d.var_type.is_learned else ("loss", "mse")


def _mean_target(
    d: GaussianDiffusion, x_start: ImagesLike, x_t: Images, t: StepsLike, noise: ImagesLike
) -> ImagesLike:
    if d.mean_type is MeanType.EPSILON:
        return noise
    if d.mean_type is MeanType.X_START:
        return x_start
    return q_posterior_mean_variance(d, x_start, x_t, t)[0]
