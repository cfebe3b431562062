"""Samplers: single reverse steps of one signature.

A sampler is a function (see `sampler_step.SamplerStep`) and its name in `SAMPLERS`, at the end of
this file. No other file has to be edited: the command line and the library find the samplers there,
and the options of each in its signature. `declare` adds what a signature cannot say.

Axis letters: B batch, H W C image.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from iddpm_jax.diffusion.gaussian import (
    extract,
    lookup,
    p_mean_variance,
    predict_eps_from_xstart,
)
from iddpm_jax.diffusion.sampler_step import SamplerStep, check_ranges, declare, takes
from iddpm_jax.diffusion.shapes import (
    DenoisedFn,
    Images,
    ImagesLike,
    ModelFn,
    PerImage,
    StepsLike,
)
from iddpm_jax.diffusion.tables import GaussianDiffusion
from iddpm_jax.errors import UsageError


def ddpm_step(
    d: GaussianDiffusion,
    model_fn: ModelFn,
    x_t: ImagesLike,
    t: StepsLike,
    noise: ImagesLike,
    *,
    clip_denoised: bool = True,
    denoised_fn: DenoisedFn | None = None,
) -> tuple[Images, Images]:
    """Ancestral sampling: x_{t-1} ~ p_θ(x_{t-1} | x_t) (DDPM, algorithm 2).

    Args:
      model_fn: see `shapes.ModelFn`.
      t: from 0 to T - 1.
      noise: standard normal; not used at t = 0.

    Returns:
      x_{t-1} and the predicted x_0.
    """
    p = p_mean_variance(d, model_fn, x_t, t, clip_denoised, denoised_fn)
    std = jnp.exp(0.5 * p.log_variance)
    return p.mean + _not_last(t, x_t.ndim) * std * noise, p.pred_xstart


@declare(uses_noise=lambda eta=0.0, **_: eta != 0, ranges={"eta": (0, 1)})
def ddim_step(
    d: GaussianDiffusion,
    model_fn: ModelFn,
    x_t: ImagesLike,
    t: StepsLike,
    noise: ImagesLike | None = None,
    *,
    clip_denoised: bool = True,
    denoised_fn: DenoisedFn | None = None,
    eta: float = 0.0,
) -> tuple[Images, Images]:
    """One step of DDIM (Song et al. 2021, eq. 12 and 16); arguments as in `ddpm_step`.

    `eta`, a number that is known when the step is traced, is 0 for a deterministic step, which
    makes no use of `noise`, and 1 for the variance of the DDPM posterior.

    Raises:
      UsageError: eta is not in [0, 1], or adds noise and there is none.
    """
    check_ranges(ddim_step, eta=eta)
    p = p_mean_variance(d, model_fn, x_t, t, clip_denoised, denoised_fn)
    # ε is derived again because x_0 may have been clipped, or predicted in the first place.
    eps = predict_eps_from_xstart(d, x_t, t, p.pred_xstart)
    alpha_bar_prev = extract(d.alphas_cumprod_prev, t, x_t.ndim)
    variance = eta**2 * extract(d.ddim_variance, t, x_t.ndim)
    # At η = 1 the difference all but vanishes, and may be rounded to less than nothing.
    along_eps = jnp.sqrt(jnp.maximum(1 - alpha_bar_prev - variance, 0))
    mean = jnp.sqrt(alpha_bar_prev) * p.pred_xstart + along_eps * eps
    if not eta:
        return mean, p.pred_xstart
    if noise is None:
        raise UsageError(f"ddim_step with eta={eta} adds noise, and none was given")
    sigma = jnp.sqrt(variance)
    return mean + _not_last(t, x_t.ndim) * sigma * noise, p.pred_xstart


@declare(uses_noise=False)
def dpm_solver_step(
    d: GaussianDiffusion,
    model_fn: ModelFn,
    x_t: ImagesLike,
    t: StepsLike,
    noise: ImagesLike | None = None,
    *,
    last_xstart: ImagesLike,
    clip_denoised: bool = True,
    denoised_fn: DenoisedFn | None = None,
) -> tuple[Images, Images]:
    """DPM-Solver++(2M): second order, data prediction (Lu et al. 2022b, algorithm 2).

    With α = √ᾱ, σ = √(1 - ᾱ), λ = log(α / σ) and h = λ_{t-1} - λ_t,

        x_{t-1} = σ_{t-1} / σ_t · x_t + α_{t-1} (1 - e^{-h}) D,
        D = x_0 + h / (2 h_last) · (x_0 - last x_0).

    Deterministic; `noise` is there for the common signature and is not used. The first
    step, and the last one, which ends at λ = ∞, are of first order.
    """
    del noise
    p = p_mean_variance(d, model_fn, x_t, t, clip_denoised, denoised_fn)
    top = d.num_timesteps - 1
    lam = d.half_log_snr
    at_t = lookup(lam, t)
    h = jnp.where(t > 0, lookup(lam, jnp.maximum(t - 1, 0)) - at_t, jnp.inf)
    h_last = jnp.where(t < top, at_t - lookup(lam, jnp.minimum(t + 1, top)), jnp.inf)
    ratio = jnp.where((t > 0) & (t < top), h / (2 * h_last), 0.0)

    def spread(values: PerImage) -> Float[Array, " b *ones"]:
        return values.reshape(t.shape + (1,) * (x_t.ndim - 1))

    direction = p.pred_xstart + spread(ratio) * (p.pred_xstart - last_xstart)
    alpha_bar_prev = extract(d.alphas_cumprod_prev, t, x_t.ndim)
    # σ_{t-1} / σ_t = α_{t-1} / α_t · e^{-h}, which needs no difference of nearly equal numbers.
    decay = spread(jnp.exp(-h))
    scale = jnp.sqrt(alpha_bar_prev / extract(d.alphas_cumprod, t, x_t.ndim))
    x_prev = scale * decay * x_t + jnp.sqrt(alpha_bar_prev) * (1 - decay) * direction
    return x_prev, p.pred_xstart


@declare(uses_noise=False)
def ddim_reverse_step(
    d: GaussianDiffusion,
    model_fn: ModelFn,
    x_t: ImagesLike,
    t: StepsLike,
    noise: ImagesLike | None = None,
    *,
    clip_denoised: bool = True,
    denoised_fn: DenoisedFn | None = None,
) -> tuple[Images, Images]:
    """DDIM run backwards: x_{t+1} from x_t along the deterministic ODE (encoding).

    `noise` is there for the common signature and is not used.
    """
    del noise
    p = p_mean_variance(d, model_fn, x_t, t, clip_denoised, denoised_fn)
    eps = predict_eps_from_xstart(d, x_t, t, p.pred_xstart)
    alpha_bar_next = extract(d.alphas_cumprod_next, t, x_t.ndim)
    x_next = jnp.sqrt(alpha_bar_next) * p.pred_xstart + jnp.sqrt(1 - alpha_bar_next) * eps
    return x_next, p.pred_xstart


def _not_last(t: StepsLike, ndim: int) -> Float[Array, " b *ones"]:
    """1 where noise is to be added, 0 at t = 0, where the mean is the result."""
    return (jnp.asarray(t) != 0).astype(jnp.float32).reshape(t.shape + (1,) * (ndim - 1))


# Every sampler by the name that `--sampler` and `TrainedModel.sample` take. `--help` reads the
# names from this file's text, for it does not wait for JAX: let them be strings as they are here.
SAMPLERS: Mapping[str, SamplerStep] = {
    "ddpm": ddpm_step,
    "ddim": ddim_step,
    "dpm-solver++": dpm_solver_step,
}


def check_sampler(name: str, **options: Any) -> None:
    """UsageError if there is no such sampler, or it does not take these options."""
    if name not in SAMPLERS:
        raise UsageError(f"unknown sampler {name!r}: choose one of {', '.join(SAMPLERS)}")
    for option, value in options.items():
        if not takes(SAMPLERS[name], option):
            which = ", ".join(other for other in SAMPLERS if takes(SAMPLERS[other], option))
            raise UsageError(
                f"{option}={value} is an option of {which or 'no sampler'}, not of {name}"
            )
    check_ranges(SAMPLERS[name], **options)
