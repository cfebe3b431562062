"""Putting arrays onto the devices of all processes, and getting all of them back.

`jax.device_put` would ask the other processes, array by array, whether they have the same.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, Sharding

from iddpm_jax.distributed.mesh import replicated


def to_devices(tree: Any, sharding: Sharding) -> Any:
    """Puts arrays that every process has, such as numpy's, onto the devices of all of them."""

    def put(value: Any) -> jax.Array:
        value = np.asarray(value)
        return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])

    return jax.tree.map(put, tree)


def replicate(mesh: Mesh, tree: Any) -> Any:
    """All of every array of the mesh on every device, in one program for the whole tree."""
    return _replicate(mesh)(tree)


@functools.cache  # So that a tree of the same shapes does not compile again.
def _replicate(mesh: Mesh) -> Callable[[Any], Any]:
    return jax.jit(lambda arrays: arrays, out_shardings=replicated(mesh))
