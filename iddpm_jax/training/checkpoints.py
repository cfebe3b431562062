"""Checkpoints: Orbax, one item for each part of the state.

checkpoints/<step>/params             parameters
checkpoints/<step>/ema                averaged parameters, by decay
checkpoints/<step>/opt                the optimiser's moments and counts
checkpoints/<step>/timestep_sampler   where the sampler has a state
checkpoints/<step>/counters           running averages and counters of skipped steps
checkpoints/<step>/data               the data iterator's position
checkpoints/<step>/meta               format version, step, identity of the run, and checksums

A checkpoint appears in one atomic move, its checksums included; restoring verifies them.
"""

import pathlib
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

from iddpm_jax.distributed import any_process, to_devices
from iddpm_jax.training import checksums, loss_scale
from iddpm_jax.training.checkpoint_items import (
    LOSS_SCALE,
    CheckpointError,
    from_items,
    read_meta,
    to_items,
    verify,
)
from iddpm_jax.training.checkpoint_reader import read_item, read_newest
from iddpm_jax.training.checkpoint_writer import (
    Background,
    complete_steps,
    keep_newest,
    prepare,
    write_checkpoint,
)
from iddpm_jax.training.identity import DataChangedError, RunIdentity
from iddpm_jax.training.state import TrainState

T = TypeVar("T")


class Checkpoints:
    """The checkpoints of one work directory.

    `save` copies the state off the devices and writes in the background; a checkpoint appears under
    its final name when it is complete.

    Args:
      workdir: the work directory.
      keep: how many of the newest checkpoints to keep.
      run: which run writes them; checkpoints of another are refused.
      read_only: whether to change nothing, since another program may be writing them.
    """

    def __init__(
        self, workdir: pathlib.Path, keep: int, run: RunIdentity, *, read_only: bool = False
    ):
        self.directory = (workdir / "checkpoints").absolute()
        self._keep, self._run, self._read_only = keep, run, read_only
        self._background = Background()
        self._saved: int | None = None  # The last step saved or restored.
        if not read_only and jax.process_index() == 0:
            prepare(self.directory)

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, oldest first."""
        self._background.join()
        return complete_steps(self.directory)

    def save(self, state: TrainState, data_state: dict) -> None:
        """Saves the state under its step, unless that was the last step saved or restored.

        Returns as soon as the state is copied. Every host has to call it.

        Args:
          data_state: the data iterator's position.

        Raises:
          CheckpointError: the previous checkpoint could not be written.
        """
        step = int(state.step)
        if step == self._saved:
            return
        self._background.join()
        self.check()
        self._saved = step
        trees = {name: checksums.snapshot(tree) for name, tree in to_items(state).items() if tree}
        if jax.process_index() == 0:
            self._background.start(lambda: self._write(step, trees, data_state))

    def _write(self, step: int, trees: dict[str, Any], data_state: dict) -> None:
        write_checkpoint(self.directory, step, trees, data_state, self._run)
        keep_newest(self.directory, self._keep)

    def check(self) -> None:
        """Raises CheckpointError, once, if a checkpoint could not be written; does not wait."""
        self._background.check()

    def wait(self) -> None:
        """Waits until everything is written. Every host has to call it.

        Raises:
          CheckpointError: on every host, if it could not be written.
        """
        self._background.join()
        _fail_together(self.check, "the last checkpoint")

    def restore(self, step: int, abstract_state: TrainState) -> tuple[TrainState, dict]:
        """Loads the state saved at `step` and the data iterator's position.

        Args:
          abstract_state: shapes, dtypes and shardings, as from `jax.eval_shape`.

        Raises:
          CheckpointError: on every host, if the checkpoint cannot be read, is not what was saved,
            or is of another step, run or format version.
        """
        return self._restore(step, abstract_state)[:2]

    def _restore(self, step: int, abstract_state: TrainState) -> tuple[TrainState, dict, dict]:
        self._background.join()
        path = self.directory / str(step)
        meta, data_state = _fail_together(lambda: read_meta(path, self._run), path)
        # A checkpoint of float16 that was only imported has no scale yet.
        scaled = f"['{LOSS_SCALE}']" in meta["checksums"].get("counters", {})
        wanted = abstract_state if scaled else _without_loss_scale(abstract_state)

        def read() -> dict[str, Any]:
            trees = {name: tree for name, tree in to_items(wanted).items() if tree}
            return {name: read_item(path, name, tree) for name, tree in trees.items()}

        def verify_all() -> None:
            for name, tree in items.items():
                verify(path, name, tree, meta)

        items = _fail_together(read, path)
        _fail_together(verify_all, path)
        state = from_items(wanted, {"timestep_sampler": None, **items})
        if abstract_state.log2_loss_scale is not None and not scaled:
            sharding = abstract_state.log2_loss_scale.sharding
            state = _with_loss_scale(state, abstract_state, sharding)
        return state, data_state, meta

    def restore_newest(self, abstract_state: TrainState) -> tuple[TrainState, dict]:
        """Loads the newest checkpoint that is sound, with a warning for every newer one.

        Unless `read_only`, the damaged ones are moved to `damaged/` beside the checkpoints, so that
        nothing is lost and their steps can be saved again.

        Raises:
          CheckpointError: none is sound; it says what is wrong with the newest.
          DataChangedError: the run was trained on other images, and `data.may_change` is False.
        """
        found, step = read_newest(self.directory, lambda step: self._restore(step, abstract_state))
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
        """Waits until this host has written everything; CheckpointError if it could not."""
        self._background.join()
        self.check()


def _fail_together(call: Callable[[], T], what: object) -> T:
    """Calls `call` on every host; if one raises CheckpointError, all of them do."""
    error = result = None
    try:
        result = call()
    except CheckpointError as raised:
        error = raised
    if any_process(error is not None):
        raise error or CheckpointError(f"another host could not read or write {what}")
    return cast(T, result)


def _without_loss_scale(state: TrainState) -> TrainState:
    metrics = {name: value for name, value in state.metrics.items() if name != LOSS_SCALE}
    return state.replace(log2_loss_scale=None, metrics=metrics)


def _with_loss_scale(
    state: TrainState, like: TrainState, sharding: jax.sharding.Sharding
) -> TrainState:
    """Gives a state the scale that training begins with."""
    empty = jax.tree.map(
        lambda leaf: to_devices(np.zeros(leaf.shape, leaf.dtype), sharding),
        like.metrics[LOSS_SCALE],
    )
    return state.replace(
        log2_loss_scale=to_devices(loss_scale.initial(jax.numpy.float16), sharding),
        metrics={**state.metrics, LOSS_SCALE: empty},
    )
