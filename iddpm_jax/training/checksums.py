"""Checksums of arrays, with which a checkpoint finds flipped bits.

They are of values, not of files: an error anywhere between the devices that saved and those that
restored changes them.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

_LENGTH = 16  # Hexadecimal digits that are kept of a SHA-256.

Checksums = dict[str, str]


def of_tree(tree: Any) -> Checksums:
    """A checksum of every leaf's dtype, shape and bytes, by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): _of_array(_to_host(leaf)) for path, leaf in leaves}


def snapshot(tree: Any) -> Any:
    """Copies all leaves into the first host's memory, where no later step changes them.

    Every host has to call it. On the others every leaf is None.
    """
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array) and leaf.is_fully_addressable:
            leaf.copy_to_host_async()
    return jax.tree.map(_own_copy, tree)


def _own_copy(leaf: Any) -> np.ndarray | None:
    if jax.process_index() and (not isinstance(leaf, jax.Array) or leaf.is_fully_replicated):
        return None
    array = _to_host(leaf)
    if jax.process_index():
        return None
    # What JAX shows of a CPU's memory is that memory itself, which the next step may write into.
    return array.copy() if jax.default_backend() == "cpu" else array


def paths(tree: Any) -> list[str]:
    """Paths of all leaves."""
    return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def of_json(value: Any) -> str:
    """Checksum of a value that JSON can hold, whatever the order of its keys."""
    return _digest(json.dumps(value, sort_keys=True).encode())


def differing(found: Mapping[str, str], expected: Mapping[str, str]) -> list[str]:
    """Paths of the leaves in `found` whose checksum is not the expected one."""
    return [path for path, checksum in found.items() if expected.get(path) != checksum]


def _to_host(leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.Array) and leaf.is_fully_replicated:
        leaf = leaf.addressable_data(0)  # Every host has all of it.
    elif isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        leaf = multihost_utils.process_allgather(leaf, tiled=True)
    return np.asarray(leaf)


def _of_array(array: np.ndarray) -> str:
    # In one order of elements, whatever that in memory is.
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    return _digest(f"{array.dtype} {array.shape} ".encode(), data)


def _digest(*parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:_LENGTH]
