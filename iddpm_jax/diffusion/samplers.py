"""Samplers: single reverse steps of one signature, and the loop that runs any of them.

Axis letters: B batch, H W C image, T diffusion steps. A step is

    step(d, model_fn, x_t, t, noise, …) -> (x_prev, pred_xstart)

A new sampler is one more such function. One that looks back (`step.multistep = True`) is also
given `last_xstart`, the x_0 predicted one step before. One that makes no use of noise says so
(`step.needs_noise = False`, or a function of the step's options that says whether it does): none is
drawn for it, and it is given None.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from iddpm_jax.diffusion.gaussian import (
    ModelFn,
    extract,
    lookup,
    p_mean_variance,
    predict_eps_from_xstart,
)
from iddpm_jax.diffusion.noise import per_sample_keys, per_sample_noise
from iddpm_jax.diffusion.tables import GaussianDiffusion
from iddpm_jax.errors import UsageError


def ddpm_step(
    d: GaussianDiffusion,
    model_fn: ModelFn,
    x_t: jax.Array,
    t: jax.Array,
    noise: jax.Array,
    *,
    clip_denoised: bool = True,
    denoised_fn: Callable[[jax.Array], jax.Array] | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Ancestral sampling: x_{t-1} ~ p_θ(x_{t-1} | x_t) (DDPM, algorithm 2).

    Args:
      model_fn: `(x_t [B, H, W, C], timestep [B] float32) -> output`.
      x_t: `[B, H, W, C]`.
      t: int32 `[B]`.
      noise: standard normal, of x_t's shape; not used at t = 0.

    Returns:
      x_{t-1} and the predicted x_0, both `[B, H, W, C]`.
    """
    p = p_mean_variance(d, model_fn, x_t, t, clip_denoised, denoised_fn)
    std = jnp.exp(0.5 * p.log_variance)
    return p.mean + _not_last(t, x_t.ndim) * std * noise, p.pred_xstart


def ddim_step(
    d: GaussianDiffusion,
    model_fn: ModelFn,
    x_t: jax.Array,
    t: jax.Array,
    noise: jax.Array | None = None,
    *,
    clip_denoised: bool = True,
    denoised_fn: Callable[[jax.Array], jax.Array] | None = None,
    eta: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
    """One step of DDIM (Song et al. 2021, eq. 12 and 16); arguments as in `ddpm_step`.

    `eta`, a number that is known when the step is traced, is 0 for a deterministic step, which
    makes no use of `noise`, and 1 for the variance of the DDPM posterior.

    Raises:
      UsageError: eta is not in [0, 1].
    """
    if not 0 <= eta <= 1:
        raise UsageError(f"eta={eta} must be in [0, 1]")
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
    sigma = jnp.sqrt(variance)
    return mean + _not_last(t, x_t.ndim) * sigma * noise, p.pred_xstart


ddim_step.needs_noise = lambda eta=0.0, **_: eta != 0


def dpm_solver_step(
    d: GaussianDiffusion,
    model_fn: ModelFn,
    x_t: jax.Array,
    t: jax.Array,
    noise: jax.Array | None = None,
    *,
    last_xstart: jax.Array,
    clip_denoised: bool = True,
    denoised_fn: Callable[[jax.Array], jax.Array] | None = None,
) -> tuple[jax.Array, jax.Array]:
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

    def spread(values):
        return values.reshape(t.shape + (1,) * (x_t.ndim - 1))

    direction = p.pred_xstart + spread(ratio) * (p.pred_xstart - last_xstart)
    alpha_bar_prev = extract(d.alphas_cumprod_prev, t, x_t.ndim)
    # σ_{t-1} / σ_t = α_{t-1} / α_t · e^{-h}, which needs no difference of nearly equal numbers.
    decay = spread(jnp.exp(-h))
    scale = jnp.sqrt(alpha_bar_prev / extract(d.alphas_cumprod, t, x_t.ndim))
    x_prev = scale * decay * x_t + jnp.sqrt(alpha_bar_prev) * (1 - decay) * direction
    return x_prev, p.pred_xstart


dpm_solver_step.multistep = True
dpm_solver_step.needs_noise = False


def ddim_reverse_step(
    d: GaussianDiffusion,
    model_fn: ModelFn,
    x_t: jax.Array,
    t: jax.Array,
    noise: jax.Array | None = None,
    *,
    clip_denoised: bool = True,
    denoised_fn: Callable[[jax.Array], jax.Array] | None = None,
) -> tuple[jax.Array, jax.Array]:
    """DDIM run backwards: x_{t+1} from x_t along the deterministic ODE (encoding).

    `noise` is there for the common signature and is not used.
    """
    del noise
    p = p_mean_variance(d, model_fn, x_t, t, clip_denoised, denoised_fn)
    eps = predict_eps_from_xstart(d, x_t, t, p.pred_xstart)
    alpha_bar_next = extract(d.alphas_cumprod_next, t, x_t.ndim)
    x_next = jnp.sqrt(alpha_bar_next) * p.pred_xstart + jnp.sqrt(1 - alpha_bar_next) * eps
    return x_next, p.pred_xstart


ddim_reverse_step.needs_noise = False


def _not_last(t: jax.Array, ndim: int) -> jax.Array:
    """1 where noise is to be added, 0 at t = 0, where the mean is the result."""
    return (t != 0).astype(jnp.float32).reshape(t.shape + (1,) * (ndim - 1))


def needs_noise(step: Callable, **step_options) -> bool:
    """Whether `step` makes use of noise when it is called with these options."""
    answer = getattr(step, "needs_noise", True)
    return answer(**step_options) if callable(answer) else answer


def sample_loop(
    d: GaussianDiffusion,
    model_fn: ModelFn,
    x_T: jax.Array,  # noqa: N803 (the papers' name)
    key: jax.Array | None = None,
    step: Callable = ddpm_step,
    *,
    noises: jax.Array | None = None,
    **step_options,
) -> jax.Array:
    """Runs `step` from t = T-1 down to 0 as one `lax.scan`.

    Args:
      model_fn: `(x_t [B, H, W, C], timestep [B] float32) -> output`.
      x_T: standard normal, `[B, H, W, C]`.
      key: a random key, from which sample i derives its own by folding in i; or `[B]` keys,
        one for each sample. Either way a sample does not depend on its batch. Not needed where
        the step needs no noise.
      step: `ddpm_step`, `ddim_step` or a function of the same signature.
      noises: instead of a key, the noise of each step taken, `[T, B, H, W, C]`.
      **step_options: passed on to `step`, such as `eta`.

    Returns:
      x_0, `[B, H, W, C]`.

    Raises:
      UsageError: the step needs noise and there is neither `key` nor `noises`, or both are given.
    """
    nothing_drawn_from = key is None and noises is None and needs_noise(step, **step_options)
    if nothing_drawn_from or not (key is None or noises is None):
        raise UsageError("sample_loop needs a key or the noises, and not both")
    keys = None if key is None else per_sample_keys(key, x_T.shape[0])
    timesteps = jnp.arange(d.num_timesteps - 1, -1, -1, dtype=jnp.int32)
    carry = (x_T, jnp.zeros_like(x_T))
    x_0, _ = sample_steps(d, model_fn, carry, timesteps, keys, step, noises, **step_options)
    return x_0


def sample_steps(
    d: GaussianDiffusion,
    model_fn: ModelFn,
    carry: tuple[jax.Array, jax.Array],
    timesteps: jax.Array,
    keys: jax.Array | None,
    step: Callable = ddpm_step,
    noises: jax.Array | None = None,
    **step_options,
) -> tuple[jax.Array, jax.Array]:
    """A part of `sample_loop`: the given timesteps, int32 `[S]`, one after the other.

    Args:
      carry: x_t and the x_0 predicted last (zeros at the start), `[B, H, W, C]` each.
      keys: one for each sample, `[B]`; None where `noises` `[S, B, H, W, C]` are given, or the
        step needs none.

    Returns:
      The carry after the last of them.
    """
    batch = carry[0].shape[0]
    draws = noises is None and needs_noise(step, **step_options)

    def one_step(carry, inputs):
        x_t, last_xstart = carry
        t, noise = inputs
        if draws:
            noise = per_sample_noise(keys, t, x_t.shape[1:])
        looks_back = {"last_xstart": last_xstart} if getattr(step, "multistep", False) else {}
        options = {**looks_back, **step_options}
        return step(d, model_fn, x_t, jnp.full(batch, t), noise, **options), None

    carry, _ = jax.lax.scan(one_step, carry, (timesteps, noises))
    return carry
