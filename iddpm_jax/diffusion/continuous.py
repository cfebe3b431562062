"""A diffusion process in continuous time, t in [0, 1].

x_t = signal_rate(t) · x_0 + noise_rate(t) · ε, with signal_rate² + noise_rate² = 1. The network is
called with the noise's variance and predicts ε (Foster, Generative Deep Learning, chapter 8, after
the Keras example of DDIM). To sample, `discretise` makes an ordinary process of any number of
steps of it, so that every sampler works: with DDIM and η = 0 a step predicts x_0 and noises it
again to the time that comes next.

Axis letters: B batch, H W C image, T steps.
"""

import dataclasses
import enum
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from iddpm_jax.diffusion.likelihood import mean_flat
from iddpm_jax.diffusion.schedules import REFERENCE_NUM_TIMESTEPS
from iddpm_jax.diffusion.shapes import Images, ModelFn, PerImage
from iddpm_jax.diffusion.tables import GaussianDiffusion, make_diffusion
from iddpm_jax.errors import UsageError

# How much of the signal is there at t = 0, and how much is left at t = 1, of the offset cosine.
_MAX_SIGNAL, _MIN_SIGNAL = 0.95, 0.02
_LEAST_SIGNAL = 1e-3  # Of a process that is sampled.


class NoiseLoss(enum.StrEnum):
    """How the error of the predicted ε is measured."""

    L1 = "l1"
    L2 = "l2"


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class ContinuousDiffusion:
    """A process in continuous time; make one with `make_continuous`."""

    schedule: str
    loss: NoiseLoss


def make_continuous(schedule: str, loss: NoiseLoss | str) -> ContinuousDiffusion:
    """Builds a process.

    Args:
      schedule: `offset_cosine`, `cosine` or `linear`.
      loss: `l1` or `l2`.

    Raises:
      UsageError: there is no such schedule or loss.
    """
    if schedule not in _ANGLES:
        raise UsageError(
            f"unknown schedule {schedule!r} of continuous time: choose one of {', '.join(_ANGLES)}"
        )
    if loss not in tuple(NoiseLoss):
        raise UsageError(f"unknown loss {loss!r}: choose one of {', '.join(NoiseLoss)}")
    return ContinuousDiffusion(schedule, NoiseLoss(loss))


def _offset_cosine(t, xp):
    """The angle goes evenly from arccos(0.95) to arccos(0.02)."""
    first, last = np.arccos(_MAX_SIGNAL), np.arccos(_MIN_SIGNAL)
    return first + t * (last - first)


def _cosine(t, xp):
    """signal_rate = cos(t · π / 2)."""
    return t * (np.pi / 2)


def _linear(t, xp):
    """ᾱ = exp(-∫β), β linear from 0.1 to 20: the limit of DDPM's schedule (Song et al. 2021)."""
    first, last = 1e-4 * REFERENCE_NUM_TIMESTEPS, 0.02 * REFERENCE_NUM_TIMESTEPS
    log_alpha_bar = -(first * t + 0.5 * (last - first) * t * t)
    # The angle whose cosine is √ᾱ, without losing small ones to 1 - ᾱ.
    return xp.arctan2(xp.sqrt(-xp.expm1(log_alpha_bar)), xp.exp(0.5 * log_alpha_bar))


_ANGLES: dict[str, Callable] = {
    "offset_cosine": _offset_cosine,
    "cosine": _cosine,
    "linear": _linear,
}


# Of any shape; a number where one time is given.
Times = Float[Array | np.ndarray, "*times"] | float


def rates(c: ContinuousDiffusion, t: Times) -> tuple[Times, Times]:
    """(signal_rate, noise_rate) at times t in [0, 1], of t's shape; float64 for numpy's times.

    Raises:
      UsageError: a time outside [0, 1], where times are known and not traced.
    """
    traced = isinstance(t, jax.core.Tracer)
    if not traced and not np.all((np.asarray(t) >= 0) & (np.asarray(t) <= 1)):
        raise UsageError(f"t={np.asarray(t)} is outside [0, 1]")
    xp = jnp if isinstance(t, jax.Array) else np
    angle = _ANGLES[c.schedule](t, xp)
    return xp.cos(angle), xp.sin(angle)


def continuous_timestep(noise_rate: Times) -> Times:
    """What the network is called with: the variance of the noise, scaled to [0, 1000]."""
    return REFERENCE_NUM_TIMESTEPS * noise_rate**2


def add_noise(c: ContinuousDiffusion, x_start: Images, t: PerImage, noise: Images) -> Images:
    """x_t of x_0 at times t in [0, 1]."""
    shape = (-1, *[1] * (x_start.ndim - 1))
    signal, sigma = (jnp.reshape(rate, shape) for rate in rates(c, t))
    return signal * x_start + sigma * noise


def noise_loss(
    c: ContinuousDiffusion,
    model_fn: ModelFn,
    x_start: Images,
    t: PerImage,
    noise: Images,
) -> PerImage:
    """The training loss of each example: the mean over its image of |ε - ε_θ(x_t)| or its square.

    Args:
      model_fn: the network, which predicts ε; called once.
      t: times in [0, 1].
      noise: ε, standard normal.
    """
    x_t = add_noise(c, x_start, t, noise)
    error = noise - model_fn(x_t, jnp.asarray(continuous_timestep(rates(c, t)[1])))
    measure = jnp.abs if c.loss is NoiseLoss.L1 else jnp.square
    return mean_flat(measure(error))


def discretise(c: ContinuousDiffusion, num_steps: int) -> GaussianDiffusion:
    """The process at the times 1/N, 2/N, … 1: an ordinary one of N steps, for any sampler.

    Its last step, from time 1/N, ends at the predicted x_0.

    Raises:
      UsageError: fewer than two steps, or so many that the first one has no noise to speak of.
    """
    if num_steps < 2:
        raise UsageError(f"a process needs at least 2 steps, got {num_steps}")
    times = np.arange(1, num_steps + 1, dtype=np.float64) / num_steps
    signal, sigma = map(np.asarray, rates(c, times))
    # Where nothing of the signal is left, as at the end of the plain cosine, x_0 could not be told.
    # (Where steps are many, what is left before the last one is little, too.)
    alphas_cumprod = np.maximum(signal, min(_LEAST_SIGNAL, signal[-2] / 2)) ** 2
    if np.float32(alphas_cumprod[0]) == 1:
        raise UsageError(
            f"the first of {num_steps} steps of the {c.schedule} schedule has less noise than "
            "float32 can hold; use fewer"
        )
    betas = 1 - alphas_cumprod / np.append(1.0, alphas_cumprod[:-1])
    d = make_diffusion(betas, mean_type="epsilon", var_type="fixed_small", loss_type="mse")
    return dataclasses.replace(
        d, model_timesteps=jnp.asarray(continuous_timestep(sigma), dtype=jnp.float32)
    )
