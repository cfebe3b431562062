"""Checkpoints of numpy arrays, none of which has to fit into memory as a whole."""

import pathlib

import jax
import numpy as np
import orbax.checkpoint as ocp

from iddpm_jax.training.checkpoints import CheckpointError, json_items, split
from iddpm_jax.training.state import TrainState


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
    trees = {name: jax.tree.map(np.asarray, tree) for name, tree in split(state).items() if tree}
    items = {name: ocp.args.PyTreeSave(tree) for name, tree in trees.items()}
    handlers = {name: ocp.PyTreeCheckpointHandler(type_handler_registry=registry) for name in items}
    items |= json_items(int(state.step), trees, data_state, config)
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
