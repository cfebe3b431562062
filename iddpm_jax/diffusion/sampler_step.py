"""What a step of a sampler is, and what is declared of it.

Axis letters: B batch, H W C image.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

from iddpm_jax.diffusion.shapes import Images, ImagesLike, ModelFn, StepsLike
from iddpm_jax.diffusion.tables import GaussianDiffusion
from iddpm_jax.errors import UsageError


@runtime_checkable
class SamplerStep(Protocol):
    """One step of a sampler: a function, or anything that is called like this."""

    def __call__(
        self,
        d: GaussianDiffusion,
        model_fn: ModelFn,
        x_t: ImagesLike,
        t: StepsLike,
        noise: ImagesLike | None,
        *args: Any,
        **options: Any,
    ) -> tuple[Any, ...]:
        """Goes from x_t to x_{t-1}.

        Args:
          d: the process, respaced or not; t - 1 is the step before t among those that it has.
          model_fn: it may be called more than once, at other x and t as well
            (`gaussian.p_mean_variance` calls it).
          t: the same for all; 0 is the last step.
          noise: standard normal; None where `declare` says that none is used.
          **options: the step's own, each with a default, such as `eta`. One that is called
            `clip_denoised` says whether a predicted x_0 is clipped to [-1, 1]. A step that has
            `last_xstart` is given the x_0 that was predicted one step before (zeros at first).

        Returns:
          x_{t-1} and the predicted x_0, of x_t's shape; and, of a step that declares a
          `first_memory`, what it wants to be given as `memory` next, of the same structure.
        """
        ...


class Declared(NamedTuple):
    """What `declare` says of a step.

    uses_noise: whether it makes use of noise, or a function of its options that says so.
    ranges: the least and the largest value of options that are numbers.
    first_memory: x_T to what a step that remembers more than the last x_0 is given at first.
    """

    uses_noise: bool | Callable[..., bool] = True
    ranges: Mapping[str, tuple[float, float]] = {}
    first_memory: Callable[[Images], Any] | None = None


_Step = TypeVar("_Step", bound=Callable)


def declare(
    *,
    uses_noise: bool | Callable[..., bool] = True,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    first_memory: Callable[[Images], Any] | None = None,
) -> Callable[[_Step], _Step]:
    """Says of a step what its signature does not; arguments as in `Declared`."""

    def with_facts(step: _Step) -> _Step:
        vars(step)["declared"] = Declared(uses_noise, ranges or {}, first_memory)
        return step

    return with_facts


def declared(step: SamplerStep) -> Declared:
    """What was declared of a step; by default that it uses noise, and nothing else."""
    return getattr(step, "declared", Declared())


def takes(step: SamplerStep, option: str) -> bool:
    """Whether a step has an option of that name."""
    return option in inspect.signature(step).parameters


def needs_noise(step: SamplerStep, **options: Any) -> bool:
    """Whether a step makes use of noise when it is called with these options."""
    uses_noise = declared(step).uses_noise
    return uses_noise(**options) if callable(uses_noise) else uses_noise


def check_ranges(step: SamplerStep, **options: Any) -> None:
    """UsageError for an option that is outside the range that was declared for it."""
    for name, (least, largest) in declared(step).ranges.items():
        if name in options and not least <= options[name] <= largest:
            raise UsageError(f"{name}={options[name]} must be in [{least}, {largest}]")
