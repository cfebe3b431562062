"""The work directory of an import: made whole or not at all, and what to do with it."""

import contextlib
import hashlib
import os
import pathlib
import shlex
import shutil
import time
from collections.abc import Iterator, Mapping
from typing import Any

from iddpm_jax.errors import UsageError
from iddpm_jax.files.atomic import write_json
from iddpm_jax.files.lock import LOCK_FILE, lock
from iddpm_jax.files.workdir import open_workdir
from iddpm_jax.torch_io.conventions import Conventions
from iddpm_jax.torch_io.run_files import RunFiles
from iddpm_jax.training.checkpoint_writer import save_host_state
from iddpm_jax.training.identity import RunIdentity
from iddpm_jax.training.state import TrainState


def new_workdir(path: str) -> pathlib.Path:
    """The directory to make; UsageError if something is there already."""
    workdir = pathlib.Path(path).resolve()
    if workdir.is_mount():
        raise UsageError(f"--workdir={workdir} is a mount point; name a directory below it")
    if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise UsageError(f"--workdir={workdir} is there already and not empty; name a new one")
    return workdir


def describe_import(
    files: RunFiles, published: str, step: int, conventions: Conventions
) -> dict[str, Any]:
    """What `imported.json` records: where the weights are from, with SHA-256 of every file."""
    return {
        "published": published,
        "step": step,
        "checkpoint": _digest(files.checkpoint),
        "checkpoint_is_average": files.checkpoint_rate(),
        "ema": {rate: _digest(path) for rate, path in files.ema.items()},
        "optimizer": None if files.optimizer is None else _digest(files.optimizer),
        **conventions.record(),
    }


def _digest(path: pathlib.Path) -> dict[str, str]:
    with path.open("rb") as file:
        return {"file": path.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def write_workdir(
    workdir: pathlib.Path, state: TrainState, run: RunIdentity, record: Mapping[str, Any]
) -> None:
    """Writes a work directory whose newest checkpoint is the state, as if it had been trained here.

    Args:
      record: of `describe_import`.

    Raises:
      UsageError: another import is writing it.
    """
    with _replacing_directory(workdir) as scratch:
        open_workdir(str(scratch), run.config, run.may_change)
        write_json(scratch / "imported.json", record)
        # The data iterator's position after a step is the step: no data is needed here.
        save_host_state(scratch, state, {"next_index": int(state.step)}, run)


@contextlib.contextmanager
def _replacing_directory(directory: pathlib.Path) -> Iterator[pathlib.Path]:
    """A locked directory beside it, moved there when it is left; removed, if with an error."""
    scratch = directory.with_name(f".{directory.name}.importing")
    scratch.mkdir(parents=True, exist_ok=True)
    with lock(scratch):
        try:
            for left_over in scratch.iterdir():  # By an import that was killed.
                if left_over.is_dir():
                    shutil.rmtree(left_over)
                elif left_over.name != LOCK_FILE:
                    left_over.unlink()
            yield scratch
            os.rename(scratch, directory)
        except BaseException:
            _remove(scratch)
            raise


def _remove(directory: pathlib.Path) -> None:
    """Removes a directory in which writes that failed may still be coming to an end."""
    for _ in range(20):
        shutil.rmtree(directory, ignore_errors=True)
        if not directory.exists():
            return
        time.sleep(0.1)


def report(
    workdir: str, values: Mapping[str, Any], record: Mapping[str, Any], num_parameters: int
) -> None:
    """Prints what was imported, and the commands that use it.

    Args:
      workdir: the directory as the user named it.
      values: its configuration by dotted key.
      record: of `describe_import`.
    """
    what = f"OpenAI's {record['published']}" if record["published"] else "a network"
    step = record["step"]
    print(
        f"{what} of {num_parameters:,} parameters, after step {step:,}: "
        f"{pathlib.Path(workdir).resolve()}"
    )
    if record["checkpoint_is_average"]:
        rate = record["checkpoint_is_average"]
        print(f"the weights are themselves the average of rate {rate}; imported.json says so")
    for rate in map(str, values["train.ema_rate"]):
        origin = record["ema"].get(rate, record["checkpoint"])["file"]
        print(f"average {rate}: {origin}")
    kept = record["optimizer"]
    print(f"optimiser: {kept['file'] if kept else 'starts anew'}")
    quoted = shlex.quote(workdir)
    if values["model.small_size"]:
        print("it is a super-resolution model: see python -m iddpm_jax.super_resolve --help")
    else:
        print(f"use it: python -m iddpm_jax.sample --workdir={quoted}")
    if not values["data.name"]:
        print("to train it on, import it with --config.data.name=… and the train.* keys you want")
    else:
        print(f"train it on: {_continuation(quoted, values['train.num_steps'] or 0, step)}")


def _continuation(workdir: str, num_steps: int, step: int) -> str:
    """The command that goes on; config.json says all but how long."""
    command = f"python main.py --workdir={workdir}"
    if num_steps > step:
        return f"{command} (to step {num_steps:,}, which --config.train.num_steps changes)"
    return f"{command} --config.train.num_steps={step + 10_000} (10,000 steps more, or any number)"
