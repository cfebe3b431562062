"""Verifies everything in a work directory: every checkpoint, the configuration and the log.

    python -m iddpm_jax.check_workdir --workdir=runs/digits

Exits with 1 if something is damaged. Nothing is changed.
"""

import pathlib
import sys
from collections.abc import Iterator

from iddpm_jax.cli import command, shared_flags
from iddpm_jax.config.record import config_from_dict, run_identity
from iddpm_jax.errors import UsageError
from iddpm_jax.files import workdir as wd
from iddpm_jax.training.identity import RunIdentity

_WORKDIR = shared_flags.workdir("Work directory to verify.")


def main() -> None:
    workdir = pathlib.Path(_WORKDIR.value)
    if not workdir.is_dir():
        raise UsageError(f"{workdir} is not a directory")
    if not any((workdir / name).exists() for name in ("config.json", "checkpoints")):
        raise UsageError(
            f"{workdir} is not a work directory: it has neither a config.json nor checkpoints"
        )
    damaged = 0
    for what, problem in findings(workdir):
        print(f"{what}: {problem or 'sound'}", flush=True)
        damaged += bool(problem)
    if damaged:
        sys.exit(f"{damaged} damaged; training and sampling use the newest sound checkpoint")


def findings(workdir: pathlib.Path) -> Iterator[tuple[str, str]]:
    """Yields what was looked at, and what is wrong with it or ""."""
    try:
        config = config_from_dict(wd.read_config(workdir))
        yield "config.json", ""
    except UsageError as error:
        yield "config.json", str(error)
        return
    names = None
    try:
        names = wd.known_labels(str(workdir))
        yield "labels.json", ""
    except UsageError as error:
        yield "labels.json", str(error)
    yield "metrics.jsonl", _problem_of_log(workdir / "metrics.jsonl")
    yield from _checkpoints(workdir, config, run_identity(config, names))


def _problem_of_log(path: pathlib.Path) -> str:
    from iddpm_jax.training.metrics import read_rows

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


def _checkpoints(workdir: pathlib.Path, config, run: RunIdentity) -> Iterator[tuple[str, str]]:
    import jax

    from iddpm_jax.config.build_state import build_abstract_state
    from iddpm_jax.training.checkpoints import Checkpoints

    jax.config.update("jax_platforms", "cpu")  # Nothing is computed.
    try:
        abstract = build_abstract_state(config)
    except UsageError as error:
        yield "checkpoints", str(error)
        return
    if not (workdir / "checkpoints").is_dir():
        yield "checkpoints", "there are none"
        return
    checkpoints = Checkpoints(workdir, keep=1, run=run, read_only=True)
    if not checkpoints.steps():
        yield "checkpoints", "there are none"
    seen, newest = -1, max(checkpoints.steps(), default=0)
    found = False
    # Training may go on: one that it has removed meanwhile is nothing to report, and where it has
    # removed all of them there are newer ones.
    while steps := [step for step in checkpoints.steps() if step > seen]:
        if found and steps[0] > newest:
            break
        seen = steps[0]
        problem = _problem_of_checkpoint(checkpoints, seen, abstract)
        if problem is not None:
            found = True
            yield f"checkpoint {seen}", problem


def _problem_of_checkpoint(checkpoints, step: int, abstract) -> str | None:
    """What is wrong with a checkpoint; "" if nothing is, None if it is there no more."""
    from iddpm_jax.training.checkpoints import CheckpointError

    try:
        checkpoints.restore(step, abstract)
    except CheckpointError as error:
        return str(error) if (checkpoints.directory / str(step)).is_dir() else None
    return ""


run = command(main, required=["workdir"], quiet=True)

if __name__ == "__main__":
    run()
