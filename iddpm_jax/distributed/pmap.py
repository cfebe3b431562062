"""Data parallelism by `jax.pmap`: every device takes the step with its part of the batch.

The default is `jit` (training/step.py), where the compiler cuts the batch up. This is the same
step to the reader who knows `pmap`, and nothing else in the package knows of it.

Axis letters: B global batch, b its part on one device.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from iddpm_jax.distributed.mesh import batch_sharding, make_mesh, replicated

_AXIS = "data"


class StepParts(Protocol):
    """A step in parts, pure functions, as `training.step.TrainStep` has them."""

    def draw(self, state: Any, shape: tuple[int, ...]) -> Any:
        """Draws arrays `[B, …]` for a global batch of images of a shape (B, H, W, C)."""

    def dropout_key(self, state: Any) -> jax.Array:
        """The key of this step's dropout."""

    def gradients(self, state: Any, batch: Any, drawn: Any, dropout_key: jax.Array) -> Any:
        """Mean gradients, and losses `[b]`, of a part of the batch and of what was drawn."""

    def apply(self, state: Any, drawn: Any, grads: Any, losses: Any) -> Any:
        """The next state, from gradients and losses of the global batch."""


def pmap_step(mesh: Mesh, step: StepParts) -> Callable[[Any, Mapping[str, jax.Array]], Any]:
    """`(state, batch) -> state` on all devices of a mesh; a batch is of `split_batch`.

    The state is not mapped over: it is one array on all devices, before and after, and its old
    memory is given away.
    """
    count = mesh.devices.size

    def train_step(state: Any, batch: Mapping[str, jax.Array]) -> Any:
        size, *image_shape = batch["image"].shape
        # The same on every device, for the global batch: so it does not depend on their number.
        drawn = step.draw(state, (count * size, *image_shape))
        index = jax.lax.axis_index(_AXIS)

        def own_rows(x: jax.Array) -> jax.Array:
            return jax.lax.dynamic_slice_in_dim(x, index * size, size)

        key = jax.random.fold_in(step.dropout_key(state), index)
        grads, losses = step.gradients(state, batch, jax.tree.map(own_rows, drawn), key)
        grads = jax.lax.pmean(grads, _AXIS)
        losses = jax.lax.all_gather(losses, _AXIS, tiled=True)
        return step.apply(state, drawn, grads, losses)

    mapped = jax.pmap(
        train_step,
        axis_name=_AXIS,
        in_axes=(None, 0),
        out_axes=None,
        devices=list(mesh.devices.flat),
        donate_argnums=0,
    )
    return lambda state, batch: _as_global(mesh, mapped(state, batch))


def split_batch(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Puts this process's part of a batch onto its devices as `pmap` takes it, `[device, b, …]`."""
    local = make_mesh(mesh.local_devices)
    count = len(mesh.local_devices)
    return {
        name: jax.device_put(value.reshape(count, -1, *value.shape[1:]), batch_sharding(local))
        for name, value in batch.items()
    }


def _as_global(mesh: Mesh, tree: Any) -> Any:
    """What `pmap` left on this process's devices, the same on all, as global arrays."""
    if jax.process_count() == 1:
        return tree

    def to_global(leaf: jax.Array) -> jax.Array:
        parts = [shard.data for shard in leaf.addressable_shards]
        return jax.make_array_from_single_device_arrays(leaf.shape, replicated(mesh), parts)

    return jax.tree.map(to_global, tree)
