"""Where arrays live: a mesh of all devices with one axis, `data`.

The state is on every device; a batch is cut along its first axis.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over `devices`, by default all devices of all processes."""
    devices = list(devices or jax.devices())
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec("data"))


def replicate(mesh: Mesh, tree: Any) -> Any:
    """Puts a pytree of arrays onto every device of the mesh."""
    return jax.device_put(tree, replicated(mesh))


def shard_batch(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Puts this process's part of a batch onto its devices, as part of global arrays."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, value)
        for name, value in batch.items()
    }


def check_batch_size(batch_size: int, microbatch: int, mesh: Mesh) -> None:
    """Raises ValueError unless devices and microbatches divide the batch evenly."""
    devices = mesh.devices.size
    if batch_size < 1:
        raise ValueError(f"train.batch_size={batch_size} must be at least 1")
    if batch_size % devices:
        raise ValueError(f"train.batch_size={batch_size} is not divisible by {devices} devices")
    if microbatch < 0 or (microbatch and batch_size % microbatch):
        raise ValueError(
            f"train.microbatch={microbatch} does not divide train.batch_size={batch_size}"
        )
    if microbatch % devices:
        raise ValueError(f"train.microbatch={microbatch} is not divisible by {devices} devices")
