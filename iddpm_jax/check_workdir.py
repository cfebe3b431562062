"""Verifies everything in a work directory: every checkpoint, the configuration and the log.

    python -m iddpm_jax.check_workdir --workdir=runs/digits

Exits with 1 if something is damaged. Nothing is changed.
"""

import contextlib
import json
import pathlib
import sys
from collections.abc import Iterator

from iddpm_jax import configuration
from iddpm_jax.cli import command
from iddpm_jax.cli.flag_errors import define_path
from iddpm_jax.errors import UsageError
from iddpm_jax.training import workdir as wd

_WORKDIR = define_path("workdir", "Work directory to verify.")


def main() -> None:
    workdir = pathlib.Path(_WORKDIR.value)
    if not workdir.is_dir():
        raise UsageError(f"{workdir} is not a directory")
    damaged = 0
    for what, problem in findings(workdir):
        print(f"{what}: {problem or 'sound'}", flush=True)
        damaged += bool(problem)
    if damaged:
        sys.exit(f"{damaged} damaged; training and sampling use the newest sound checkpoint")


def findings(workdir: pathlib.Path) -> Iterator[tuple[str, str]]:
    """Yields what was looked at, and what is wrong with it or ""."""
    try:
        config = configuration.config_from_dict(wd.read_config(workdir))
        configuration.check_config(config)
        yield "config.json", ""
    except UsageError as error:
        yield "config.json", str(error)
        return
    try:
        wd.known_labels(str(workdir))
        yield "labels.json", ""
    except UsageError as error:
        yield "labels.json", str(error)
    yield "metrics.jsonl", _problem_of_log(workdir / "metrics.jsonl")
    yield from _checkpoints(workdir, config)


def _problem_of_log(path: pathlib.Path) -> str:
    last = 0
    lines = path.read_text("utf-8", errors="replace").splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            step = json.loads(line)["step"]
        except (ValueError, KeyError, TypeError) as error:
            return f"line {number} cannot be read ({error})"
        if step <= last:
            return f"line {number} is of step {step}, the one before of step {last}"
        last = step
    return ""


def _checkpoints(workdir: pathlib.Path, config) -> Iterator[tuple[str, str]]:
    import jax

    from iddpm_jax import factory, torch_run
    from iddpm_jax.training.checkpoints import CheckpointError, Checkpoints

    jax.config.update("jax_platforms", "cpu")  # Nothing is computed.
    try:
        abstract = torch_run.abstract_state(config, factory.build_model(config))
    except UsageError as error:
        yield "checkpoints", str(error)
        return
    if not (workdir / "checkpoints").is_dir():
        yield "checkpoints", "there are none"
        return
    with contextlib.closing(Checkpoints(workdir, keep=1, read_only=True)) as checkpoints:
        steps = checkpoints.steps()
        if not steps:
            yield "checkpoints", "there are none"
        for step in steps:
            try:
                checkpoints.restore(step, abstract)
                yield f"checkpoint {step}", ""
            except CheckpointError as error:
                yield f"checkpoint {step}", str(error)


run = command(main, required=["workdir"], quiet=True)

if __name__ == "__main__":
    run()
