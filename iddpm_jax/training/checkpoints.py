"""Checkpoints: Orbax, one item for each part of the state.

checkpoints/<step>/params             parameters
checkpoints/<step>/ema                averaged parameters, by decay
checkpoints/<step>/opt                the optimiser's moments and counts
checkpoints/<step>/timestep_sampler   where the sampler has a state
checkpoints/<step>/counters           running averages and counters of skipped steps
checkpoints/<step>/data               the data iterator's position
checkpoints/<step>/meta               format version, step, configuration and checksums

The checksums are written in the same atomic move as what they are of, and verified on restore.
"""

import gc
import logging as python_logging
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils

from iddpm_jax.errors import UsageError
from iddpm_jax.processes import any_process, place
from iddpm_jax.training import checksums, loss_scale
from iddpm_jax.training.state import TrainState

FORMAT_VERSION = 2
_WITHOUT_CHECKSUMS = 1  # The version before, which is read as it is.
_ARRAY_ITEMS = ("params", "ema", "opt", "timestep_sampler", "counters")
_JSON_ITEMS = ("data", "meta")
_LOSS_SCALE = "log2_loss_scale"  # Among the counters, where there is one.

# Of an array that all devices hold each may write a share. Below so many bytes cutting the shares
# takes longer than it saves: it is a program for every shape and device.
_SMALLEST_SHARE = 2**20


class CheckpointError(UsageError):
    """A checkpoint is missing, damaged or of another format."""


class Checkpoints:
    """The checkpoints of one work directory.

    Saving copies the state off the devices and writes in the background; a checkpoint
    appears under its final name only when it is complete.
    """

    def __init__(self, workdir: pathlib.Path, keep: int, *, read_only: bool = False):
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None if read_only else keep,
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
        )
        self.directory = (workdir / "checkpoints").absolute()
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=options,
            item_names=(*_ARRAY_ITEMS, *_JSON_ITEMS),
            item_handlers={name: _array_handler() for name in _ARRAY_ITEMS},
        )

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState, data_state: dict, config: dict) -> None:
        """Saves the state under its step, unless that step is saved already.

        Raises:
          CheckpointError: this checkpoint, or the one before, could not be written.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        trees = {name: tree for name, tree in split(state).items() if tree}
        items = {name: ocp.args.PyTreeSave(tree) for name, tree in trees.items()}
        items |= json_items(step, trees, data_state, config)
        # Orbax writes in the background, and says here what became of the checkpoint before.
        self._write(lambda: self._manager.save(step, args=ocp.args.Composite(**items), force=True))

    def _write(self, call: Callable[[], Any]) -> None:
        _attempt(call, f"a checkpoint in {self.directory} could not be written")

    def restore(self, step: int, abstract_state: TrainState) -> tuple[TrainState, dict]:
        """Loads the state saved at `step` and the data iterator's position.

        Args:
          abstract_state: shapes, dtypes and shardings, as from `jax.eval_shape`.

        Raises:
          CheckpointError: the checkpoint cannot be read, is of another format version, or is
            not what was saved.
        """
        if abstract_state.log2_loss_scale is not None and not self._has_loss_scale(step):
            state, data_state = self.restore(step, _without_loss_scale(abstract_state))
            return _with_loss_scale(state, abstract_state), data_state
        abstract = {name: tree for name, tree in split(abstract_state).items() if tree}
        items = {name: _array_restore(tree) for name, tree in abstract.items()}
        items |= {name: ocp.args.JsonRestore() for name in _JSON_ITEMS}
        where = self.directory / str(step)
        restored = _attempt(
            lambda: self._manager.restore(step, args=ocp.args.Composite(**items)),
            f"the checkpoint {where} cannot be read",
        )
        meta, data_state = restored["meta"], restored["data"]
        version = _version(where, meta)
        if version not in (FORMAT_VERSION, _WITHOUT_CHECKSUMS):
            raise CheckpointError(
                f"the checkpoint {where} has format version {version}, this program reads up to "
                f"version {FORMAT_VERSION}"
            )
        state = join(abstract_state, restored)
        if version == FORMAT_VERSION:
            if meta.get("digest") != _meta_digest(meta, data_state):
                raise CheckpointError(f"the checkpoint {where} is damaged: its meta or data item")
            for name, tree in split(state).items():
                if tree:
                    _verify(where, name, tree, meta["checksums"])
        return state, data_state

    def _has_loss_scale(self, step: int) -> bool:
        """Whether a checkpoint of float16 has the scale; those that were only imported do not."""
        args = ocp.args.Composite(meta=ocp.args.JsonRestore())
        where = self.directory / str(step)
        meta = _attempt(
            lambda: self._manager.restore(step, args=args),
            f"the checkpoint {where} cannot be read",
        )["meta"]
        _version(where, meta)
        return f"['{_LOSS_SCALE}']" in meta.get("checksums", {}).get("counters", {})

    def restore_newest(
        self, abstract_state: TrainState, *, set_aside: bool = True
    ) -> tuple[TrainState, dict]:
        """Loads the newest checkpoint that is sound, with a warning for every one that is not.

        Unless the directory is only read, those are moved to `damaged/` beside the checkpoints,
        so that nothing is lost and their steps can be saved again.

        Raises:
          CheckpointError: none is sound; of the newest one.
        """
        first_error = None
        for step in reversed(self.steps()):
            error = None
            try:
                found = self.restore(step, abstract_state)
            except CheckpointError as raised:
                error = raised
            # All of several processes continue from the same step.
            if any_process(error is not None):
                error = error or CheckpointError(
                    f"another process could not read the checkpoint {self.directory / str(step)}"
                )
                first_error = first_error or error
                logging.warning("%s", error)
                continue
            if set_aside:
                self._set_aside_after(step)
            return found
        raise first_error or CheckpointError(f"{self.directory} has no complete checkpoint")

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
        self._manager.reload()

    def wait(self) -> None:
        """Waits until what was saved is written; CheckpointError if it could not be."""
        self._write(self._manager.wait_until_finished)

    def close(self) -> None:
        """Waits until everything is written; CheckpointError if it could not be."""
        self.wait()
        self._manager.close()


def _array_handler() -> ocp.PyTreeCheckpointHandler:
    arrays = ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=_SMALLEST_SHARE)
    registry = ocp.type_handlers.create_type_handler_registry(
        (jax.Array, arrays),
        (np.ndarray, ocp.type_handlers.NumpyHandler()),
        (np.number, ocp.type_handlers.ScalarHandler()),
    )
    return ocp.PyTreeCheckpointHandler(type_handler_registry=registry)


def _array_restore(abstract: Any, **options) -> ocp.args.PyTreeRestore:
    """Arrays as `abstract` has them: onto its devices, and of its shapes or an error."""
    restore_args = ocp.checkpoint_utils.construct_restore_args(abstract)
    return ocp.args.PyTreeRestore(abstract, restore_args=restore_args, **options)


def json_items(
    step: int, trees: dict[str, Any], data_state: dict, config: dict
) -> dict[str, ocp.args.JsonSave]:
    """The items of a checkpoint that are JSON: where the data is, and what proves the rest."""
    meta = {
        "format_version": FORMAT_VERSION,
        "step": step,
        "config": config,
        "checksums": {name: checksums.of_tree(tree) for name, tree in trees.items()},
    }
    meta["digest"] = _meta_digest(meta, data_state)
    return {"data": ocp.args.JsonSave(data_state), "meta": ocp.args.JsonSave(meta)}


def _without_loss_scale(state: TrainState) -> TrainState:
    metrics = {name: value for name, value in state.metrics.items() if name != _LOSS_SCALE}
    return state.replace(log2_loss_scale=None, metrics=metrics)


def _with_loss_scale(state: TrainState, like: TrainState) -> TrainState:
    """Gives a state the scale that training begins with."""
    where = like.log2_loss_scale.sharding
    empty = jax.tree.map(
        lambda leaf: place(np.zeros(leaf.shape, leaf.dtype), where), like.metrics[_LOSS_SCALE]
    )
    return state.replace(
        log2_loss_scale=place(loss_scale.initial(jax.numpy.float16), where),
        metrics={**state.metrics, _LOSS_SCALE: empty},
    )


def _meta_digest(meta: dict, data_state: dict) -> str:
    return checksums.of_json([{k: v for k, v in meta.items() if k != "digest"}, data_state])


def _verify(where: pathlib.Path, name: str, tree: Any, expected: dict[str, dict]) -> None:
    known = expected.get(name, {})
    unknown = [path for path in checksums.paths(tree) if path not in known]
    if unknown:
        raise CheckpointError(f"the checkpoint {where} has no {unknown[0]} in its item {name}")
    bad = checksums.differing(checksums.of_tree(tree), known)
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise CheckpointError(
            f"the checkpoint {where} is damaged: in its item {name}, {', '.join(bad[:3])}{more} "
            "are not what was saved"
        )


def _version(where: pathlib.Path, meta: Any) -> Any:
    if not isinstance(meta, dict) or not isinstance(meta.get("checksums", {}), dict):
        raise CheckpointError(f"the checkpoint {where} is damaged: its meta item")
    return meta.get("format_version")


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


def load_params(workdir: pathlib.Path, ema: str, abstract_params: Any) -> tuple[Any, int]:
    """Reads parameters alone, without the rest of the state, from the newest sound checkpoint.

    Args:
      workdir: the work directory.
      ema: decay of an average, as `str(decay)`, or "none" for the parameters themselves.
      abstract_params: shapes, dtypes and shardings.

    Returns:
      The parameters, and the step that they are of.

    Raises:
      CheckpointError: there is no complete checkpoint, or none is sound.
    """
    directory = (workdir / "checkpoints").absolute()
    steps = sorted(
        int(p.name)
        for p in directory.glob("*")
        if p.name.isascii() and p.name.isdecimal() and p.is_dir()
    )
    if not steps:
        raise CheckpointError(f"{workdir} has no complete checkpoint; train first")
    first_error = None
    for step in reversed(steps):
        try:
            return _load_params(directory / str(step), ema, abstract_params), step
        except CheckpointError as error:
            first_error = first_error or error
            logging.warning("%s", error)
    raise first_error


def _load_params(where: pathlib.Path, ema: str, abstract_params: Any) -> Any:
    name = "params" if ema == "none" else "ema"
    abstract = abstract_params if ema == "none" else {ema: abstract_params}

    def read() -> tuple[dict, Any]:
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as checkpointer:
            meta = checkpointer.restore(where / "meta")
        with ocp.PyTreeCheckpointer() as checkpointer:
            args = _array_restore(abstract, partial_restore=True)
            return meta, checkpointer.restore(where / name, args)

    meta, tree = _attempt(read, f"the checkpoint {where} cannot be read")
    if _version(where, meta) != _WITHOUT_CHECKSUMS:
        _verify(where, name, tree, meta.get("checksums", {}))
    return tree if ema == "none" else tree[ema]


def split(state: TrainState) -> dict[str, Any]:
    """The state as checkpoint items."""
    return {
        "params": state.params,
        "ema": state.ema,
        "opt": optax.tree.set(state.opt_state, ema=None),
        "timestep_sampler": state.sampler_state,
        "counters": {
            "step": state.step,
            "skipped": state.skipped,
            "skipped_in_row": state.skipped_in_row,
            "running": state.metrics,
            **({} if state.log2_loss_scale is None else {_LOSS_SCALE: state.log2_loss_scale}),
        },
    }


def join(like: TrainState, items: dict[str, Any]) -> TrainState:
    """The inverse of `split`; `like` tells the structure of what is not an item."""
    counters = items["counters"]
    return like.replace(
        step=counters["step"],
        params=items["params"],
        opt_state=optax.tree.set(items["opt"], ema=items["ema"] if like.ema else {}),
        sampler_state=items["timestep_sampler"] if like.sampler_state else like.sampler_state,
        metrics=counters["running"],
        skipped=counters["skipped"],
        skipped_in_row=counters["skipped_in_row"],
        log2_loss_scale=counters.get(_LOSS_SCALE),
    )
