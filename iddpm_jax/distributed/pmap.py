"""The batch as one step sees it: whole, or the part of one device under `pmap`.

Axis letters: B global batch, b its part on this device.
"""

from typing import Any, NamedTuple

import jax


class BatchAxis(NamedTuple):
    """How a function relates to the global batch.

    name: of the mapped axis; None where the function sees the whole batch, as under `jit`, which
      cuts it up by itself.
    size: number of parts.
    """

    name: str | None = None
    size: int = 1

    def mine(self, tree: Any) -> Any:
        """`[B, …]` to this part's `[b, …]`."""
        if self.name is None:
            return tree
        index = jax.lax.axis_index(self.name)

        def rows(x):
            count = x.shape[0] // self.size
            return jax.lax.dynamic_slice_in_dim(x, index * count, count)

        return jax.tree.map(rows, tree)

    def all(self, tree: Any) -> Any:
        """Every part's `[b, …]` to `[B, …]`."""
        if self.name is None:
            return tree
        return jax.tree.map(lambda x: jax.lax.all_gather(x, self.name, tiled=True), tree)

    def mean(self, tree: Any) -> Any:
        """The mean over all parts."""
        return tree if self.name is None else jax.lax.pmean(tree, self.name)

    def fold_in(self, key: jax.Array) -> jax.Array:
        """A key of this part's own."""
        return key if self.name is None else jax.random.fold_in(key, jax.lax.axis_index(self.name))


WHOLE = BatchAxis()
