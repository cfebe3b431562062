"""Where arrays live: a mesh of all devices with one axis, `data`.

The state is on every device; a batch is cut along its first axis. Optionally what the optimiser
keeps is cut too, so that every device has its share of it (ZeRO-1, Rajbhandari et al. 2020).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from iddpm_jax.errors import UsageError


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over `devices`, by default all devices of all processes."""
    devices = list(devices or jax.devices())
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """All of an array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """An array cut along its first axis, a part of it on each device."""
    return NamedSharding(mesh, PartitionSpec("data"))


def batch_size_for(num_items: int, batch_size: int, mesh: Mesh) -> int:
    """The batch size to use: no more than there are items, a multiple of the devices."""
    devices = mesh.devices.size
    return -(-min(num_items, batch_size) // devices) * devices


def shardings_of_state(mesh: Mesh, state: Any, shard_optimizer: bool) -> Any:
    """A sharding for every leaf of a state, which may be abstract.

    With `shard_optimizer`, moments and averages are cut along the longest axis that the devices
    divide evenly; what has no such axis stays on every device.
    """
    shardings = jax.tree.map(lambda _: replicated(mesh), state)
    if not shard_optimizer:
        return shardings
    cut = jax.tree.map(lambda leaf: _cut(mesh, leaf.shape), state.opt_state)
    return shardings.replace(opt_state=cut)


def _cut(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    sizes = [size if size % mesh.devices.size == 0 else 0 for size in shape]
    if not any(sizes):
        return replicated(mesh)
    axis = int(np.argmax(sizes))
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))


def shard_batch(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Puts this process's part of a batch onto its devices, as part of global arrays."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, value)
        for name, value in batch.items()
    }


def on_this_process(tree: Any) -> Any:
    """What this process has of arrays that are on every device, on a mesh of its own devices."""
    if jax.process_count() == 1:
        return tree
    local = replicated(make_mesh(jax.local_devices()))

    def to_local(leaf: jax.Array) -> jax.Array:
        parts = [shard.data for shard in leaf.addressable_shards]
        return jax.make_array_from_single_device_arrays(leaf.shape, local, parts)

    return jax.tree.map(to_local, tree)


def check_batch_size(batch_size: int, microbatch: int, mesh: Mesh) -> None:
    """Raises UsageError unless devices and microbatches divide the batch evenly."""
    devices = mesh.devices.size
    if batch_size < 1:
        raise UsageError(f"train.batch_size={batch_size} must be at least 1")
    if batch_size % devices:
        raise UsageError(f"train.batch_size={batch_size} is not divisible by {devices} devices")
    if microbatch < 0 or (microbatch and batch_size % microbatch):
        raise UsageError(
            f"train.microbatch={microbatch} does not divide train.batch_size={batch_size}"
        )
    if microbatch % devices:
        raise UsageError(f"train.microbatch={microbatch} is not divisible by {devices} devices")
