"""Noise schedules β_1 … β_T, in float64.

Axis letters: T diffusion steps. Index 0 is the step next to the data.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float64

from iddpm_jax.diffusion.shapes import Betas
from iddpm_jax.errors import UsageError

# The step count that schedules and timesteps are expressed in since Ho et al. 2020:
# a schedule of another length is stretched so that it destroys the same amount of signal.
REFERENCE_NUM_TIMESTEPS = 1000


def _linear(num_timesteps: int) -> Betas:
    """β rises linearly from 1e-4 to 0.02 at 1000 steps (Ho et al. 2020, section 4)."""
    scale = REFERENCE_NUM_TIMESTEPS / num_timesteps
    return np.linspace(scale * 1e-4, scale * 0.02, num_timesteps, dtype=np.float64)


def _cosine(num_timesteps: int, offset: float = 0.008, max_beta: float = 0.999) -> Betas:
    """ᾱ(u) = cos²((u + s) / (1 + s) · π/2) (Nichol & Dhariwal 2021, eq. 17).

    β_t = 1 - ᾱ(t) / ᾱ(t - 1), clipped to `max_beta` because ᾱ(1) = 0.
    """
    u = np.arange(num_timesteps + 1, dtype=np.float64) / num_timesteps
    alpha_bar = np.cos((u + offset) / (1 + offset) * np.pi / 2) ** 2
    return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], max_beta)


def _scaled_linear(num_timesteps: int) -> Betas:
    """√β rises linearly between the roots of the linear schedule's ends (latent diffusion)."""
    first, last = np.sqrt(_linear(num_timesteps)[[0, -1]])
    return np.linspace(first, last, num_timesteps, dtype=np.float64) ** 2


def _sigmoid(num_timesteps: int) -> Betas:
    """β rises as a sigmoid over [-6, 6] between the linear schedule's ends (GeoDiff)."""
    first, last = _linear(num_timesteps)[[0, -1]]
    rise = 1 / (1 + np.exp(-np.linspace(-6, 6, num_timesteps, dtype=np.float64)))
    return first + (last - first) * rise


_SCHEDULES: dict[str, Callable[[int], Betas]] = {
    "linear": _linear,
    "cosine": _cosine,
    "scaled_linear": _scaled_linear,
    "sigmoid": _sigmoid,
    # The cosine schedule as diffusers calls it.
    "squaredcos_cap_v2": _cosine,
}


def beta_schedule_names() -> tuple[str, ...]:
    """The names that `beta_schedule` knows."""
    return tuple(_SCHEDULES)


def beta_schedule(name: str, num_timesteps: int) -> Betas:
    """Returns the noise schedule `name` over `num_timesteps` steps.

    Args:
      name: one of `beta_schedule_names()`.
      num_timesteps: T, at least 1.

    Returns:
      β, float64 `[T]`, each in (0, 1].

    Raises:
      UsageError: unknown name, T < 1, or a β outside (0, 1]. The linear schedule and those
        between its ends need T >= 20, since its last β is 20 / T.
    """
    if name not in _SCHEDULES:
        raise UsageError(f"unknown noise schedule {name!r}: choose one of {', '.join(_SCHEDULES)}")
    if num_timesteps < 1:
        raise UsageError(f"a schedule needs at least 1 timestep, got num_timesteps={num_timesteps}")
    betas = _SCHEDULES[name](num_timesteps)
    check_betas(betas, f"the {name} schedule with num_timesteps={num_timesteps}")
    return betas


def check_betas(betas: Float64[np.ndarray, "..."], origin: str) -> None:
    """Raises UsageError unless `betas` is a vector with every entry in (0, 1]."""
    if betas.ndim != 1 or betas.size == 0:
        raise UsageError(f"{origin}: betas must be a non-empty vector, got shape {betas.shape}")
    bad = ~((betas > 0) & (betas <= 1))
    if bad.any():
        index = int(np.argmax(bad))
        raise UsageError(
            f"{origin} has beta[{index}] = {betas[index]:.6g}, outside (0, 1]; "
            "use more timesteps or another schedule"
        )
