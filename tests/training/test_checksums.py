import jax
import jax.numpy as jnp
import numpy as np

from iddpm_jax.distributed.mesh import replicated
from iddpm_jax.training import checksums
from tests import tiny


def test_of_tree_depends_on_values_and_not_on_where_they_are():
    tree = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": (np.int32(3),)}
    expected = checksums.of_tree(tree)
    assert list(expected) == ["['a']", "['b'][0]"]
    assert checksums.of_tree(jax.tree.map(jnp.asarray, tree)) == expected
    assert checksums.of_tree(jax.tree.map(lambda x: np.array(x, order="F"), tree)) == expected
    everywhere = jax.device_put(tree, replicated(tiny.mesh(8)))
    assert checksums.of_tree(everywhere) == expected


def test_of_tree_changes_with_every_bit_the_shape_and_the_dtype():
    array = np.zeros(4, np.float32)
    seen = [checksums.of_tree([array])["[0]"]]
    for byte in range(array.nbytes):
        for bit in range(8):
            flipped = array.copy()
            flipped.view(np.uint8)[byte] ^= 1 << bit
            seen.append(checksums.of_tree([flipped])["[0]"])
    seen.append(checksums.of_tree([array.reshape(2, 2)])["[0]"])
    seen.append(checksums.of_tree([array.view(np.int32)])["[0]"])
    assert len(set(seen)) == len(seen)


def test_of_json_does_not_depend_on_the_order_of_keys():
    assert checksums.of_json({"a": 1, "b": [2]}) == checksums.of_json({"b": [2], "a": 1})
    assert checksums.of_json({"a": 1}) != checksums.of_json({"a": 2})


def test_differing_names_leaves_that_are_new_or_changed():
    expected = {"a": "1", "b": "2"}
    assert checksums.differing({"a": "1", "b": "3", "c": "1"}, expected) == ["b", "c"]
    assert checksums.differing({"a": "1"}, expected) == []
