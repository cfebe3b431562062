import jax
import numpy as np

from iddpm_jax.distributed import replicate, to_devices
from iddpm_jax.distributed.mesh import batch_sharding, make_mesh
from tests import tiny


def test_replicate_compiles_once_for_trees_of_the_same_shapes():
    mesh = tiny.mesh(8)
    trees = [{"a": np.arange(8.0) * i, "b": np.ones((16, 2))} for i in range(2)]
    placed = [to_devices(tree, batch_sharding(mesh)) for tree in trees]
    whole = replicate(mesh, placed[0])
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(whole))
    with tiny.compilations() as compilations:
        second = replicate(make_mesh(jax.devices()), placed[1])
    assert compilations == []
    np.testing.assert_array_equal(second["a"], trees[1]["a"])
