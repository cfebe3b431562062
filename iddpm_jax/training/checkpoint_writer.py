"""Writing checkpoints of numpy arrays: in one atomic move, in the background of training.

The first host writes alone, so that no host waits for another meanwhile.
"""

import pathlib
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from iddpm_jax.training.checkpoint_items import CheckpointError, make_meta, to_items
from iddpm_jax.training.identity import RunIdentity
from iddpm_jax.training.state import TrainState

_REMOVED = ".removed_"  # Begins the names of checkpoints that are being deleted.


class _InPortions(ocp.type_handlers.NumpyHandler):
    """Writes a few arrays at a time, without a copy of all of them.

    Orbax copies every array first, and encodes all of them at once. For arrays that are views of
    a file that would be the whole file in memory, twice.
    """

    _PORTION = 2**26  # Bytes.

    def __init__(self):
        super().__init__(deepcopy_host_arrays=False)

    async def serialize(self, values, infos, args=None):
        args = args or [ocp.SaveArgs()] * len(values)
        start = 0
        while start < len(values):
            end, size = start + 1, values[start].nbytes
            while end < len(values) and size + values[end].nbytes <= self._PORTION:
                size += values[end].nbytes
                end += 1
            part = slice(start, end)
            for written in await super().serialize(values[part], infos[part], args[part]):
                written.result()
            start = end
        return []


def this_host_only() -> ocp.options.MultiprocessingOptions:
    """Orbax's options for reading or writing without a word to the other hosts."""
    host = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=host, active_processes={host}, barrier_sync_key_prefix=f"process_{host}"
    )


def complete_steps(directory: pathlib.Path) -> list[int]:
    """Steps of the complete checkpoints in a directory, oldest first."""
    names = [p.name for p in directory.glob("*") if p.name.isdecimal() and p.name.isascii()]
    steps = [int(name) for name in names if name == str(int(name))]
    return sorted(step for step in steps if (directory / str(step)).is_dir())


def write_checkpoint(
    directory: pathlib.Path, step: int, trees: dict[str, Any], data_state: dict, run: RunIdentity
) -> None:
    """Writes the checkpoint `directory/<step>`, in one atomic move, with its checksums.

    Args:
      trees: numpy arrays by item, none of which has to fit into memory as a whole.

    Raises:
      CheckpointError: it cannot be written; nothing is left of it then.
    """
    meta = make_meta(step, trees, data_state, run)
    items = {name: ocp.args.PyTreeSave(tree) for name, tree in trees.items()}
    items |= {"data": ocp.args.JsonSave(data_state), "meta": ocp.args.JsonSave(meta)}
    try:
        with _checkpointer(trees) as checkpointer:
            checkpointer.save(directory / str(step), args=ocp.args.Composite(**items))
    except Exception as error:  # Orbax raises many kinds where a disk is full.
        _remove_left_overs(directory)
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"a checkpoint in {directory} could not be written ({type(error).__name__}: {reason})"
        ) from error


def _checkpointer(names) -> ocp.Checkpointer:
    registry = ocp.type_handlers.create_type_handler_registry(
        (np.ndarray, _InPortions()),
        (jax.Array, ocp.type_handlers.ArrayHandler()),  # There is none; Orbax warns without it.
    )
    options = this_host_only()
    handlers: dict[str, Any] = {
        name: ocp.PyTreeCheckpointHandler(
            type_handler_registry=registry, multiprocessing_options=options
        )
        for name in names
    }
    handlers |= {
        name: ocp.JsonCheckpointHandler(multiprocessing_options=options)
        for name in ("data", "meta")
    }
    # Where Orbax makes directories in the background and cannot, it waits for them for ever.
    at_once = ocp.options.AsyncOptions(create_directories_asynchronously=False)
    composite = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(
            multiprocessing_options=options, async_options=at_once
        ),
        **handlers,
    )
    return ocp.Checkpointer(composite, multiprocessing_options=options)


def save_host_state(
    workdir: pathlib.Path, state: TrainState, data_state: dict, run: RunIdentity
) -> None:
    """Saves a state of numpy arrays, none of which has to fit into memory as a whole.

    Raises:
      CheckpointError: it cannot be written.
    """
    trees = {name: jax.tree.map(np.asarray, tree) for name, tree in to_items(state).items() if tree}
    directory = (workdir / "checkpoints").absolute()
    prepare(directory)
    write_checkpoint(directory, int(state.step), trees, data_state, run)


def prepare(directory: pathlib.Path) -> None:
    """Makes the directory of the checkpoints, or removes what a kill left half written in it.

    Raises:
      CheckpointError: it cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{directory} cannot be written: {error}") from error
    _remove_left_overs(directory)


def _remove_left_overs(directory: pathlib.Path) -> None:
    for _ in range(20):
        left = [*directory.glob("*.orbax-checkpoint-tmp*"), *directory.glob(f"{_REMOVED}*")]
        for path in left:
            shutil.rmtree(path, ignore_errors=True)
        if not left:
            return
        time.sleep(0.05)  # Where one write fails, others are still coming to an end.


def keep_newest(directory: pathlib.Path, keep: int) -> None:
    """Deletes all but the `keep` newest checkpoints, each in one atomic move."""
    for step in complete_steps(directory)[:-keep]:
        # A reader finds a whole checkpoint or none.
        removed = directory / f"{_REMOVED}{step}_{secrets.token_hex(4)}"
        try:
            (directory / str(step)).rename(removed)
            shutil.rmtree(removed)
        except OSError as error:
            logging.warning("the checkpoint %s cannot be removed: %s", directory / str(step), error)


class Background:
    """Runs one call at a time in a thread, and keeps the error that it raises."""

    def __init__(self):
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, call: Callable[[], None]) -> None:
        """Starts a call. The last one has ended, and `check` was called for its error."""
        # A daemon, so that a program that ends with an error does not wait for it.
        self._thread = threading.Thread(
            target=self._run, args=(call,), name="checkpoint", daemon=True
        )
        self._thread.start()

    def _run(self, call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as error:
            self._error = error

    def check(self) -> None:
        """Raises the error of the last call, once; a call that is running is not waited for."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def join(self) -> None:
        """Waits until the call has returned or raised."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
