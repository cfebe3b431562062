"""Respacing: run a T-step process with only some of its steps, in float64.

`space_timesteps` knows the whole language in which a user says which; a spacing of its own name is
one function and one row of `_SPACINGS`. Axis letters: T steps of the full process, K kept steps.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from iddpm_jax.diffusion.shapes import Betas, KeptSteps
from iddpm_jax.errors import UsageError

SearchedTimesteps = Callable[[int], KeptSteps]  # K to the timesteps searched for it.


def space_timesteps(
    num_timesteps: int,
    spec: str | Sequence[int],
    *,
    betas: Float64[np.ndarray, "..."] | None = None,
    searched: SearchedTimesteps | None = None,
) -> KeptSteps:
    """Chooses which of `num_timesteps` steps to keep.

    Args:
      num_timesteps: T of the full process.
      spec: `"250"`: 250 evenly spaced steps. `"10,15,20"` (or a sequence of ints): the
        process is cut into equal sections, and the i-th keeps that many evenly spaced
        steps. `"ddim25"`: every s-th step from 0, s being the integer that gives exactly
        25 (Song et al. 2021); the last timesteps are then left out. `"exact25"` or
        `"linspace25"`: 25 steps from the first to the last, evenly spaced and rounded, for any
        number up to T. `"leading25"` and `"trailing25"`: those of diffusers' DDPM and DDIM
        schedulers (Lin et al. 2024, table 2; its others space otherwise), every T // 25 steps
        from the first on, and every T / 25 back from the last. `"logsnr25"`: evenly spaced in
        the log-SNR, see `log_snr_timesteps`. `"dp25"`: those that a search found to have the
        best likelihood (Watson et al. 2021).
      betas: the schedule; logsnr needs it.
      searched: gives the timesteps that were searched for a number of steps; dp needs it.

    Returns:
      The kept timesteps, sorted, int64.

    Raises:
      UsageError: the spec cannot be read, asks for steps that are not there, or needs an argument
        that is None.
    """
    for name, spacing in _SPACINGS.items():
        if isinstance(spec, str) and spec.startswith(name):
            count = _count_after(name, spec)
            return spacing(_Request(spec, count, num_timesteps, betas, searched))
    return _in_sections(num_timesteps, spec)


def is_searched(spec: str) -> bool:
    """Whether a spec asks for searched timesteps, which are others after every search."""
    return spec.startswith("dp")


def count_of_continuous_steps(spec: str) -> int:
    """The number of steps that a spec asks for of a process in continuous time, as in `"20"`.

    Raises:
      UsageError: it says anything but a number.
    """
    if not spec.isdecimal():
        raise UsageError(
            f"respacing {spec!r}: of a process in continuous time give the number of steps, as in "
            "20"
        )
    return int(spec)


def _in_sections(num_timesteps: int, spec: str | Sequence[int]) -> KeptSteps:
    """`"250"` and `"10,15,20"`: evenly spaced steps of sections of equal length."""
    counts = _section_counts(spec)
    size, extra = divmod(num_timesteps, len(counts))
    kept: list[int] = []
    start = 0
    for index, count in enumerate(counts):
        section = size + (index < extra)
        if count > section:
            raise UsageError(
                f"respacing {spec!r}: section {index} of {len(counts)} has {section} of the "
                f"{num_timesteps} timesteps and cannot keep {count}"
            )
        kept += _evenly_spaced(start, section, count)
        start += section
    if not kept:
        raise UsageError(f"respacing {spec!r} keeps no timestep; ask for at least one")
    return np.unique(np.asarray(kept, dtype=np.int64))


def _section_counts(spec: str | Sequence[int]) -> list[int]:
    parts = spec.split(",") if isinstance(spec, str) else list(spec)
    try:
        counts = [int(part) for part in parts]
    except ValueError:
        *names, last = (f"{name}N" for name in _SPACINGS)
        raise UsageError(
            f"respacing {spec!r} cannot be read: give a number ('250'), numbers per section "
            f"('10,15,20') or, with a number for N, {', '.join(names)} or {last}"
        ) from None
    if not counts or min(counts) < 0:
        raise UsageError(f"respacing {spec!r}: section counts must not be empty or negative")
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


class _Request(NamedTuple):
    """A spec of one word and a number, and what `space_timesteps` was given with it."""

    spec: str
    count: int
    num_timesteps: int
    betas: Float64[np.ndarray, "..."] | None
    searched: SearchedTimesteps | None

    def check_count(self) -> None:
        if not 2 <= self.count <= self.num_timesteps:
            raise UsageError(
                f"respacing {self.spec!r}: asks for {self.count} of {self.num_timesteps} "
                f"timesteps; from 2 to {self.num_timesteps} are possible"
            )


def _count_after(name: str, spec: str) -> int:
    try:
        return int(spec.removeprefix(name))
    except ValueError:
        raise UsageError(
            f"respacing {spec[:80]!r} cannot be read: {name!r} needs a number, as in {name}25"
        ) from None


def _ddim(request: _Request) -> KeptSteps:
    spec, wanted, num_timesteps = request[:3]
    # A stride s keeps ceil(T / s) steps.
    reachable = {-(-num_timesteps // s): s for s in range(num_timesteps - 1, 0, -1)}
    if wanted not in reachable:
        nearest = sorted(sorted(reachable, key=lambda n: abs(n - wanted))[:3])
        raise UsageError(
            f"respacing {spec!r}: no integer stride over {num_timesteps} timesteps gives "
            f"{wanted} steps; the nearest that work are {', '.join(f'ddim{n}' for n in nearest)}, "
            f"and exact{wanted} spaces them unevenly"
        )
    return np.arange(0, num_timesteps, reachable[wanted], dtype=np.int64)


def _exact(request: _Request) -> KeptSteps:
    request.check_count()
    return np.round(np.linspace(0, request.num_timesteps - 1, request.count)).astype(np.int64)


def _leading(request: _Request) -> KeptSteps:
    request.check_count()
    stride = request.num_timesteps // request.count
    return np.arange(request.count, dtype=np.int64) * stride


def _trailing(request: _Request) -> KeptSteps:
    request.check_count()
    stride = request.num_timesteps / request.count
    kept = np.round(np.arange(request.num_timesteps, 0, -stride)[: request.count]) - 1
    return kept[::-1].astype(np.int64)


def _log_snr(request: _Request) -> KeptSteps:
    if request.betas is None:
        raise UsageError(
            f"respacing {request.spec!r} needs the schedule: space_timesteps(…, betas=…)"
        )
    if request.betas.shape != (request.num_timesteps,):
        raise UsageError(
            f"respacing {request.spec!r}: betas are of shape {request.betas.shape}, but the "
            f"process has {request.num_timesteps} timesteps"
        )
    return log_snr_timesteps(request.betas, request.count)


def _searched(request: _Request) -> KeptSteps:
    if request.searched is None:
        raise UsageError(
            f"respacing {request.spec!r} takes timesteps from the table of a trained model that "
            "python -m iddpm_jax.dp_respacing makes; there is none here"
        )
    return np.asarray(request.searched(request.count), dtype=np.int64)


# By the word before the number. None may be the beginning of another.
_SPACINGS: dict[str, Callable[[_Request], KeptSteps]] = {
    "ddim": _ddim,
    "exact": _exact,
    "linspace": _exact,
    "leading": _leading,
    "trailing": _trailing,
    "logsnr": _log_snr,
    "dp": _searched,
}
SPACING_NAMES = tuple(_SPACINGS)


def respaced_betas(betas: Betas, keep_timesteps: KeptSteps) -> Float64[np.ndarray, " K"]:
    """The schedule whose ᾱ are those of `betas` at the kept steps (IDDPM, section 4).

    Args:
      keep_timesteps: sorted, distinct indices into `betas`.

    Returns:
      β_i = 1 - ᾱ[keep_i] / ᾱ[keep_{i-1}].
    """
    alphas_cumprod = np.cumprod(1.0 - betas)[keep_timesteps]
    return 1.0 - alphas_cumprod / np.append(1.0, alphas_cumprod[:-1])


def half_log_snr(
    alphas_cumprod: Float64[np.ndarray, " T"],
) -> Float64[np.ndarray, " T"]:
    """λ = log(√ᾱ / √(1 - ᾱ)), half the logarithm of the signal-to-noise ratio."""
    return 0.5 * (np.log(alphas_cumprod) - np.log1p(-alphas_cumprod))


_MIN_HALF_LOG_SNR = -5.1


def log_snr_timesteps(betas: Betas, count: int) -> KeptSteps:
    """Timesteps evenly spaced in λ (DPM-Solver, Lu et al. 2022, section 3.4).

    Timesteps with λ below -5.1 (ᾱ < 4e-5), where nothing but noise is left, are left out: the
    cosine schedule would spend a third of its steps there.

    Args:
      count: number of timesteps, K.

    Returns:
      Sorted, distinct indices, int64: the timestep with the nearest λ to each point of
      the even spacing. Where several points have the same one, as at the steep ends, the
      timesteps that come next stand in, and those before them where there are no next ones.

    Raises:
      UsageError: count is not from 2 to T.
    """
    steps = betas.size
    if not 2 <= count <= steps:
        raise UsageError(
            f"cannot keep {count} of {steps} timesteps; from 2 to {steps} are possible"
        )
    decreasing = half_log_snr(np.cumprod(1.0 - betas))
    targets = np.linspace(decreasing[0], max(decreasing[-1], _MIN_HALF_LOG_SNR), count)
    below = np.searchsorted(-decreasing, -targets).clip(1, steps - 1)  # The first λ not above it.
    above = decreasing[below - 1] - targets
    kept = np.where(above <= targets - decreasing[below], below - 1, below)
    index = np.arange(count)
    kept = np.maximum.accumulate(kept - index) + index
    return np.minimum(kept, steps - count + index)
