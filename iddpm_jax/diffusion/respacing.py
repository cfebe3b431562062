"""Respacing: run a T-step process with only some of its steps, in float64.

Axis letters: T steps of the full process, K kept steps.
"""

from collections.abc import Sequence

import numpy as np


def space_timesteps(num_timesteps: int, spec: str | Sequence[int]) -> np.ndarray:
    """Chooses which of `num_timesteps` steps to keep.

    Args:
      num_timesteps: T of the full process.
      spec: `"250"`: 250 evenly spaced steps. `"10,15,20"` (or a sequence of ints): the
        process is cut into equal sections, and the i-th keeps that many evenly spaced
        steps. `"ddim25"`: every s-th step from 0, s being the integer that gives exactly
        25 (Song et al. 2021); the last timesteps are then left out.

    Returns:
      The kept timesteps, sorted, int64 `[K]`.

    Raises:
      ValueError: the spec cannot be read, or asks for steps that are not there.
    """
    if isinstance(spec, str) and spec.startswith("ddim"):
        return _strided(num_timesteps, spec)
    counts = _section_counts(spec)
    size, extra = divmod(num_timesteps, len(counts))
    kept: list[int] = []
    start = 0
    for index, count in enumerate(counts):
        section = size + (index < extra)
        if count > section:
            raise ValueError(
                f"respacing {spec!r}: section {index} of {len(counts)} has {section} of the "
                f"{num_timesteps} timesteps and cannot keep {count}"
            )
        kept += _evenly_spaced(start, section, count)
        start += section
    if not kept:
        raise ValueError(f"respacing {spec!r} keeps no timestep; ask for at least one")
    return np.unique(np.asarray(kept, dtype=np.int64))


def _section_counts(spec: str | Sequence[int]) -> list[int]:
    parts = spec.split(",") if isinstance(spec, str) else list(spec)
    try:
        counts = [int(part) for part in parts]
    except ValueError:
        raise ValueError(
            f"respacing {spec!r} cannot be read: give a number ('250'), "
            "numbers per section ('10,15,20') or 'ddimN'"
        ) from None
    if not counts or min(counts) < 0:
        raise ValueError(f"respacing {spec!r}: section counts must not be empty or negative")
    return counts


def _evenly_spaced(start: int, section: int, count: int) -> list[int]:
    """`count` integers from `start` to `start + section - 1`, both ends included."""
    # The stride is added up, not multiplied: where a position falls on .5 the accumulated
    # rounding decides, and kept timesteps must equal those of the reference.
    stride = (section - 1) / (count - 1) if count > 1 else 1
    position, kept = 0.0, []
    for _ in range(count):
        kept.append(start + round(position))
        position += stride
    return kept


def _strided(num_timesteps: int, spec: str) -> np.ndarray:
    try:
        wanted = int(spec.removeprefix("ddim"))
    except ValueError:
        raise ValueError(f"respacing {spec!r} cannot be read: 'ddim' needs a number") from None
    # A stride s keeps ceil(T / s) steps.
    reachable = {-(-num_timesteps // s): s for s in range(num_timesteps - 1, 0, -1)}
    if wanted not in reachable:
        nearest = sorted(sorted(reachable, key=lambda n: abs(n - wanted))[:3])
        raise ValueError(
            f"respacing {spec!r}: no integer stride over {num_timesteps} timesteps gives "
            f"{wanted} steps; the nearest that work are {', '.join(f'ddim{n}' for n in nearest)}"
        )
    return np.arange(0, num_timesteps, reachable[wanted], dtype=np.int64)


def respaced_betas(betas: np.ndarray, keep_timesteps: np.ndarray) -> np.ndarray:
    """The schedule whose ᾱ are those of `betas` at the kept steps (IDDPM, section 4).

    Args:
      betas: float64 `[T]`.
      keep_timesteps: sorted, distinct indices into it, int `[K]`.

    Returns:
      β_i = 1 - ᾱ[keep_i] / ᾱ[keep_{i-1}], float64 `[K]`.
    """
    alphas_cumprod = np.cumprod(1.0 - betas)[keep_timesteps]
    return 1.0 - alphas_cumprod / np.append(1.0, alphas_cumprod[:-1])
