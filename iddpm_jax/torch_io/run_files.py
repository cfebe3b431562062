"""Which files a PyTorch run consists of, and what their names say.

The reference writes `model000003.pt`, one `ema_0.9999_000003.pt` for each average, and
`opt000003.pt`; the number is the step.
"""

import dataclasses
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from iddpm_jax.errors import UsageError
from iddpm_jax.files.paths import local_path
from iddpm_jax.torch_io.published import PUBLISHED

_NAME = re.compile(r"(model|opt|ema_(?P<rate>\d+(\.\d+)?)_)(?P<step>\d{6,})\.(pt|safetensors)$")


class FileName(NamedTuple):
    """What a file's name says: None where it says nothing."""

    step: int | None
    ema_rate: str | None  # As `str(float)`, the name under which we keep the average.


def parse_name(path: pathlib.Path) -> FileName:
    """Reads the step, and of an average its rate, from a file's name."""
    match = _NAME.search(path.name)
    if match is None:
        return FileName(None, None)
    rate = match["rate"]
    return FileName(int(match["step"]), rate and str(float(rate)))


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """The files of a run: its weights, averages by rate, and the optimiser's state or None."""

    checkpoint: pathlib.Path
    ema: dict[str, pathlib.Path]
    optimizer: pathlib.Path | None

    def paths(self) -> list[pathlib.Path]:
        """Every file."""
        optimizer = [] if self.optimizer is None else [self.optimizer]
        return [self.checkpoint, *self.ema.values(), *optimizer]

    def is_own_run(self) -> bool:
        """Whether it is of somebody's training: files beside the weights, or their name, say so."""
        return len(self.paths()) > 1 or parse_name(self.checkpoint).step is not None

    def checkpoint_rate(self) -> str:
        """The rate of the average that the weights themselves are; "" where they are none."""
        return parse_name(self.checkpoint).ema_rate or ""


def find_run(checkpoint: str, ema: Sequence[str], optimizer: str | None) -> RunFiles:
    """The files that flags name; each of `ema` may be several with commas between.

    Raises:
      UsageError: the name of an average does not say its rate, or two say the same one.
    """
    averages: dict[str, pathlib.Path] = {}
    for value in ema:
        for name in [value] if pathlib.Path(value).exists() else value.split(","):
            path = local_path(name, "--ema")
            rate = parse_name(path).ema_rate
            if rate is None:
                raise UsageError(f"--ema={name}: the name should be as in ema_0.9999_500000.pt")
            if rate in averages:
                raise UsageError(f"--ema: {averages[rate]} and {name} are of the same rate {rate}")
            averages[rate] = path
    return RunFiles(
        pathlib.Path(checkpoint), averages, pathlib.Path(optimizer) if optimizer else None
    )


def training_steps(files: RunFiles, given: int | None, published: str) -> int:
    """The training steps taken: as the names say, else as given, else of a published checkpoint.

    Raises:
      UsageError: the names contradict each other or what is given, or there are too many.
    """
    steps = _common_step(files)
    if steps is not None and given not in (None, steps):
        raise UsageError(f"--step={given}, but the files are of step {steps}")
    if steps is None:
        steps = given
    if steps is None:
        steps = PUBLISHED[published].steps if published else 0
    if steps >= 2**31:
        raise UsageError(f"step {steps} is more than {2**31 - 1}")
    return steps


def _common_step(files: RunFiles) -> int | None:
    """The step that the files' names say; None if none does; UsageError if they disagree."""
    steps = {path.name: parse_name(path).step for path in files.paths()}
    known = {name: step for name, step in steps.items() if step is not None}
    if len(set(known.values())) > 1:
        raise UsageError(
            "the files are of different steps: "
            + ", ".join(f"{name} of {step}" for name, step in known.items())
        )
    return next(iter(known.values()), None)
