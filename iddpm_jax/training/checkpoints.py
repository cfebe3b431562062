"""Checkpoints: Orbax, one item for each part of the state.

checkpoints/<step>/params             parameters
checkpoints/<step>/ema                averaged parameters, by decay
checkpoints/<step>/opt                the optimiser's moments and counts
checkpoints/<step>/timestep_sampler   where the sampler has a state
checkpoints/<step>/counters           running averages and counters of skipped steps
checkpoints/<step>/data               the data iterator's position
checkpoints/<step>/meta               format version, step, which run it is of, and checksums

The checksums are written in the same atomic move as what they are of, and verified on restore.
"""

import gc
import logging as python_logging
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils

from iddpm_jax.distributed import any_process, to_devices
from iddpm_jax.training import checksums, loss_scale
from iddpm_jax.training.checkpoint_items import (
    LOSS_SCALE,
    CheckpointError,
    join,
    read_meta,
    split,
    verify,
)
from iddpm_jax.training.checkpoint_writer import (
    Background,
    alone,
    complete_steps,
    keep_newest,
    prepare,
    write_checkpoint,
)
from iddpm_jax.training.identity import DataChangedError, RunIdentity
from iddpm_jax.training.state import TrainState

__all__ = ["CheckpointError", "Checkpoints", "DataChangedError", "RunIdentity", "load_params"]

T = TypeVar("T")

# Checkpoints that are removed while they are read, one after the other, before giving up.
_MOST_REMOVED = 100


class Checkpoints:
    """The checkpoints of one work directory.

    Saving copies the state off the devices and writes in the background; a checkpoint
    appears under its final name only when it is complete.

    Args:
      workdir: the work directory.
      keep: how many to keep.
      run: the run that they are of, and have to be of.
      read_only: whether another process may be writing them.
    """

    def __init__(
        self, workdir: pathlib.Path, keep: int, run: RunIdentity, *, read_only: bool = False
    ):
        self.directory = (workdir / "checkpoints").absolute()
        self._keep, self._run, self._read_only = keep, run, read_only
        self._background = Background()
        self._saved: int | None = None  # The step that is not to be saved again.
        if not read_only and jax.process_index() == 0:
            prepare(self.directory)

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, oldest first."""
        self._background.join()
        return complete_steps(self.directory)

    def save(self, state: TrainState, data_state: dict) -> None:
        """Saves the state under its step, unless that was the last step saved or restored.

        Returns as soon as the state is copied. Every process has to call it.

        Raises:
          CheckpointError: the checkpoint before could not be written.
        """
        step = int(state.step)
        if step == self._saved:
            return
        self._background.join()
        self.check()
        self._saved = step
        trees = {name: checksums.snapshot(tree) for name, tree in split(state).items() if tree}
        if jax.process_index() == 0:
            self._background.start(lambda: self._write(step, trees, data_state))

    def _write(self, step: int, trees: dict[str, Any], data_state: dict) -> None:
        write_checkpoint(self.directory, step, trees, data_state, self._run)
        keep_newest(self.directory, self._keep)

    def check(self) -> None:
        """CheckpointError, once, if a checkpoint could not be written; waits for nothing."""
        self._background.check()

    def wait(self) -> None:
        """Waits until everything is written. Every process has to call it.

        Raises:
          CheckpointError: in every process, if it could not be written.
        """
        self._background.join()
        _together(self.check, "the last checkpoint")

    def restore(self, step: int, abstract_state: TrainState) -> tuple[TrainState, dict]:
        """Loads the state saved at `step` and the data iterator's position.

        Args:
          abstract_state: shapes, dtypes and shardings, as from `jax.eval_shape`.

        Raises:
          CheckpointError: in every process, if the checkpoint cannot be read, is not what was
            saved, or is of another step, run or format version.
        """
        return self._restore(step, abstract_state)[:2]

    def _restore(self, step: int, abstract_state: TrainState) -> tuple[TrainState, dict, dict]:
        self._background.join()
        where = self.directory / str(step)
        meta, data_state = _together(lambda: read_meta(where, self._run), where)
        # A checkpoint of float16 that was only imported has no scale yet.
        scaled = f"['{LOSS_SCALE}']" in meta["checksums"].get("counters", {})
        wanted = abstract_state if scaled else _without_loss_scale(abstract_state)

        def read() -> dict[str, Any]:
            trees = {name: tree for name, tree in split(wanted).items() if tree}
            return {name: _read_item(where, name, tree) for name, tree in trees.items()}

        def verify_all() -> None:
            for name, tree in items.items():
                verify(where, name, tree, meta)

        items = _together(read, where)
        _together(verify_all, where)
        state = join(wanted, {"timestep_sampler": None, **items})
        if abstract_state.log2_loss_scale is not None and not scaled:
            state = _with_loss_scale(state, abstract_state)
        return state, data_state, meta

    def restore_newest(self, abstract_state: TrainState) -> tuple[TrainState, dict]:
        """Loads the newest checkpoint that is sound, with a warning for every one that is not.

        Unless the directory is only read, those are moved to `damaged/` beside the checkpoints,
        so that nothing is lost and their steps can be saved again.

        Raises:
          CheckpointError: none is sound; of the newest one.
          DataChangedError: it is of other images, and the run does not allow that.
        """
        found, step = _newest_sound(
            self.directory, lambda step: self._restore(step, abstract_state)
        )
        state, data_state, meta = found
        change = self._run.data_difference(meta)
        if change and not self._run.data_may_change:
            raise DataChangedError(
                f"{change}; restore them, or continue with --config.data.may_change=True"
            )
        if change:
            logging.warning("%s", change)
        if not self._read_only:
            self._set_aside_after(step)
            self._saved = step
        return state, data_state

    def _set_aside_after(self, step: int) -> None:
        damaged = [newer for newer in self.steps() if newer > step]
        if not damaged:
            return
        if jax.process_index() == 0:
            folder = self.directory.with_name("damaged")
            folder.mkdir(exist_ok=True)
            for newer in damaged:
                target = folder / f"{newer}_{time.time_ns()}"
                (self.directory / str(newer)).rename(target)
                logging.warning("moved to %s; continuing from step %d", target, step)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("damaged checkpoints are set aside")

    def close(self) -> None:
        """Waits until everything is written; CheckpointError if it could not be."""
        self._background.join()
        self.check()


def _together(call: Callable[[], T], what: object) -> T:
    """Calls `call` in every process; CheckpointError in all of them if it is raised in one."""
    error = result = None
    try:
        result = call()
    except CheckpointError as raised:
        error = raised
    if any_process(error is not None):
        raise error or CheckpointError(f"another process could not read or write {what}")
    return result


def _newest_sound(directory: pathlib.Path, read: Callable[[int], T]) -> tuple[T, int]:
    """What `read` returns of the newest step for which it does not raise, and that step.

    Another process may be saving: where a checkpoint is gone by the time it is read, there is a
    newer one.

    Raises:
      CheckpointError: of the newest checkpoint, if none can be read; or there is none.
    """
    failed: set[int] = set()
    first_error = None
    removed = 0
    while steps := [step for step in complete_steps(directory) if step not in failed]:
        try:
            return read(steps[-1]), steps[-1]
        except CheckpointError as error:
            if removed < _MOST_REMOVED and not (directory / str(steps[-1])).is_dir():
                removed += 1
                continue
            failed.add(steps[-1])
            first_error = first_error or error
            logging.warning("%s", error)
    raise first_error or CheckpointError(
        f"{directory.parent} has no complete checkpoint; train first"
    )


def _read_item(where: pathlib.Path, name: str, abstract: Any, **options) -> Any:
    """Reads an item onto the devices that `abstract` says.

    Raises:
      CheckpointError: it cannot be read, or has other arrays.
    """
    failure = f"the checkpoint {where} cannot be read"

    def read() -> Any:
        handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone())
        with ocp.Checkpointer(handler, multiprocessing_options=alone()) as checkpointer:
            restore_args = ocp.checkpoint_utils.construct_restore_args(abstract)
            args = ocp.args.PyTreeRestore(abstract, restore_args=restore_args, **options)
            return checkpointer.restore(where / name, args)

    tree = _attempt(read, failure)
    expected, structure = jax.tree.flatten(abstract)
    found = jax.tree.leaves(tree)
    same = jax.tree.structure(tree) == structure and all(
        isinstance(leaf, jax.Array) and (leaf.shape, leaf.dtype) == (like.shape, like.dtype)
        for leaf, like in zip(found, expected, strict=True)
    )
    if not same:
        raise CheckpointError(f"{failure}: its item {name} has other arrays than the network")
    return tree


def _without_loss_scale(state: TrainState) -> TrainState:
    metrics = {name: value for name, value in state.metrics.items() if name != LOSS_SCALE}
    return state.replace(log2_loss_scale=None, metrics=metrics)


def _with_loss_scale(state: TrainState, like: TrainState) -> TrainState:
    """Gives a state the scale that training begins with."""
    where = like.log2_loss_scale.sharding
    empty = jax.tree.map(
        lambda leaf: to_devices(np.zeros(leaf.shape, leaf.dtype), where), like.metrics[LOSS_SCALE]
    )
    return state.replace(
        log2_loss_scale=to_devices(loss_scale.initial(jax.numpy.float16), where),
        metrics={**state.metrics, LOSS_SCALE: empty},
    )


def _attempt(call: Callable[[], Any], failure: str) -> Any:
    """Calls `call`; CheckpointError for whatever Orbax raises for damaged files or full disks."""
    hook, logger = sys.unraisablehook, python_logging.getLogger("asyncio")
    level = logger.level

    def quiet(raised) -> None:
        if "Event loop is closed" not in str(raised.exc_value):
            hook(raised)

    # Where one read fails, Orbax leaves hundreds of others behind, and each of them complains.
    sys.unraisablehook = quiet
    logger.setLevel(python_logging.CRITICAL + 1)
    try:
        try:
            return call()
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            message = f"{failure} ({type(error).__name__}: {reason})"
        gc.collect()  # Now, and not whenever; `error`, which holds on to them, is gone.
        raise CheckpointError(message)
    finally:
        sys.unraisablehook = hook
        logger.setLevel(level)


def load_params(
    workdir: pathlib.Path, ema: str, abstract_params: Any, run: RunIdentity
) -> tuple[Any, int]:
    """Reads parameters alone, without the rest of the state, from the newest sound checkpoint.

    Args:
      workdir: the work directory.
      ema: decay of an average, as `str(decay)`, or "none" for the parameters themselves.
      abstract_params: shapes, dtypes and shardings.
      run: the run that the checkpoint has to be of.

    Returns:
      The parameters, and the step that they are of.

    Raises:
      CheckpointError: there is no complete checkpoint, or none is sound.
    """
    directory = (workdir / "checkpoints").absolute()
    name, abstract = (
        ("params", abstract_params) if ema == "none" else ("ema", {ema: abstract_params})
    )

    def read(step: int) -> Any:
        where = directory / str(step)
        meta, _ = read_meta(where, run)
        tree = _read_item(where, name, abstract, partial_restore=True)
        verify(where, name, tree, meta)
        return tree if ema == "none" else tree[ema]

    return _newest_sound(directory, read)
