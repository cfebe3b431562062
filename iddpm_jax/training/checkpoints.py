"""Checkpoints: Orbax, one item for each part of the state.

checkpoints/<step>/params             parameters
checkpoints/<step>/ema                averaged parameters, by decay
checkpoints/<step>/opt                the optimiser's moments and counts
checkpoints/<step>/timestep_sampler   where the sampler has a state
checkpoints/<step>/counters           running averages and counters of skipped steps
checkpoints/<step>/data               the data iterator's position
checkpoints/<step>/meta               format version, step and configuration
"""

import pathlib
from typing import Any

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp

from iddpm_jax.training.state import TrainState

FORMAT_VERSION = 1
_ARRAY_ITEMS = ("params", "ema", "opt", "timestep_sampler", "counters")
_JSON_ITEMS = ("data", "meta")


class CheckpointError(ValueError):
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
            self.directory, options=options, item_names=(*_ARRAY_ITEMS, *_JSON_ITEMS)
        )

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState, data_state: dict, config: dict) -> None:
        """Saves the state under its step, unless that step is saved already."""
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        items = {name: ocp.args.StandardSave(tree) for name, tree in split(state).items() if tree}
        items |= _json_items(step, data_state, config)
        self._manager.save(step, args=ocp.args.Composite(**items), force=True)

    def restore(self, step: int, abstract_state: TrainState) -> tuple[TrainState, dict]:
        """Loads the state saved at `step` and the data iterator's position.

        Args:
          abstract_state: shapes, dtypes and shardings, as from `jax.eval_shape`.

        Raises:
          CheckpointError: the checkpoint cannot be read, or is of another format version.
        """
        abstract = {name: tree for name, tree in split(abstract_state).items() if tree}
        items = {name: ocp.args.StandardRestore(tree) for name, tree in abstract.items()}
        items |= {name: ocp.args.JsonRestore() for name in _JSON_ITEMS}
        try:
            restored = self._manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:  # Orbax raises many kinds for damaged files.
            raise CheckpointError(
                f"the checkpoint {self.directory / str(step)} cannot be read "
                f"({type(error).__name__}: {error}); delete that folder to continue from an "
                "earlier one"
            ) from error
        version = restored["meta"]["format_version"]
        if version != FORMAT_VERSION:
            raise CheckpointError(
                f"the checkpoint {self.directory / str(step)} has format version {version}, "
                f"this program reads version {FORMAT_VERSION}"
            )
        return join(abstract_state, restored), restored["data"]

    def close(self) -> None:
        """Waits until everything is written."""
        self._manager.wait_until_finished()
        self._manager.close()


def _json_items(step: int, data_state: dict, config: dict) -> dict[str, ocp.args.JsonSave]:
    meta = {"format_version": FORMAT_VERSION, "step": step, "config": config}
    return {"data": ocp.args.JsonSave(data_state), "meta": ocp.args.JsonSave(meta)}


class _InPortions(ocp.type_handlers.NumpyHandler):
    """Writes a few arrays at a time, without a copy of all of them.

    Orbax copies every array first, because training goes on while it writes. For arrays that
    are views of a file that would be the whole file in memory, twice.
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


def save_host_state(workdir: pathlib.Path, state: TrainState, data_state: dict, config: dict):
    """Saves a state of numpy arrays, none of which has to fit into memory as a whole."""
    registry = ocp.type_handlers.create_type_handler_registry((np.ndarray, _InPortions()))
    items = {
        name: ocp.args.PyTreeSave(jax.tree.map(np.asarray, tree))
        for name, tree in split(state).items()
        if tree
    }
    handlers = {name: ocp.PyTreeCheckpointHandler(type_handler_registry=registry) for name in items}
    items |= _json_items(int(state.step), data_state, config)
    options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False)
    directory = (workdir / "checkpoints").absolute()
    try:
        with ocp.CheckpointManager(
            directory, options=options, item_names=tuple(items), item_handlers=handlers
        ) as manager:
            manager.save(int(state.step), args=ocp.args.Composite(**items), force=True)
    except Exception as error:  # Orbax raises many kinds where a disk is full.
        raise CheckpointError(
            f"{directory} cannot be written ({type(error).__name__}: {str(error)[:300]})"
        ) from error


def load_params(workdir: pathlib.Path, ema: str, abstract_params: Any) -> tuple[Any, int]:
    """Reads parameters alone, without the rest of the state, from the newest checkpoint.

    Args:
      workdir: the work directory.
      ema: decay of an average, as `str(decay)`, or "none" for the parameters themselves.
      abstract_params: shapes, dtypes and shardings.

    Returns:
      The parameters, and the step that they are of.

    Raises:
      CheckpointError: there is no complete checkpoint, or it cannot be read.
    """
    directory = (workdir / "checkpoints").absolute()
    steps = sorted(int(p.name) for p in directory.glob("*") if p.name.isdigit() and p.is_dir())
    if not steps:
        raise CheckpointError(f"{workdir} has no complete checkpoint; train first")
    path = directory / str(steps[-1]) / ("params" if ema == "none" else "ema")
    abstract = abstract_params if ema == "none" else {ema: abstract_params}
    restore_args = ocp.checkpoint_utils.construct_restore_args(abstract)
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            args = ocp.args.PyTreeRestore(abstract, restore_args=restore_args, partial_restore=True)
            tree = checkpointer.restore(path, args)
    except Exception as error:  # Orbax raises many kinds for damaged files.
        raise CheckpointError(
            f"the checkpoint {path} cannot be read ({type(error).__name__}: {error})"
        ) from error
    return (tree if ema == "none" else tree[ema]), steps[-1]


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
    )


def abstract_on(state_shapes: TrainState, sharding: jax.sharding.Sharding) -> TrainState:
    """Gives every leaf of an abstract state a sharding, without which Orbax guesses one."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), state_shapes
    )
