"""What is wrong with the files of a run: its log, and every checkpoint."""

import pathlib
from collections.abc import Iterator

from iddpm_jax.errors import UsageError
from iddpm_jax.training.checkpoints import CheckpointError, Checkpoints
from iddpm_jax.training.metrics import read_rows
from iddpm_jax.training.state import TrainState


def problem_of_log(path: pathlib.Path) -> str:
    """What is wrong with a `metrics.jsonl`; "" if nothing is, or there is none."""
    last = 0
    try:
        for number, (_, step) in enumerate(read_rows(path), start=1):
            if step is None:
                return f"line {number} cannot be read: it is no row of a log"
            if step <= last:
                return f"line {number} is of step {step}, the one before of step {last}"
            last = step
    except UsageError as error:
        return str(error)
    return ""


def problems_of_checkpoints(
    checkpoints: Checkpoints, abstract_state: TrainState
) -> Iterator[tuple[int, str]]:
    """Yields the step of every checkpoint, and what is wrong with it or "".

    Training may go on meanwhile: a checkpoint that it has removed is nothing to report, and where
    it has removed all of them there are newer ones.
    """
    seen, newest = -1, max(checkpoints.steps(), default=0)
    found = False
    while steps := [step for step in checkpoints.steps() if step > seen]:
        if found and steps[0] > newest:
            break
        seen = steps[0]
        problem = _problem_of_checkpoint(checkpoints, seen, abstract_state)
        if problem is not None:
            found = True
            yield seen, problem


def _problem_of_checkpoint(
    checkpoints: Checkpoints, step: int, abstract_state: TrainState
) -> str | None:
    """What is wrong with a checkpoint; "" if nothing is, None if it is there no more."""
    try:
        checkpoints.restore(step, abstract_state)
    except CheckpointError as error:
        return str(error) if (checkpoints.directory / str(step)).is_dir() else None
    return ""
