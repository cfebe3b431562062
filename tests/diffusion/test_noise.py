import ast
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from iddpm_jax.diffusion import Stream, per_sample_noise, stream, stream_keys
from iddpm_jax.diffusion.noise import initial_noise

PACKAGE = pathlib.Path(__file__).resolve().parents[2] / "iddpm_jax"
SEEDS, COUNT = range(4), 24


@jax.jit
def _data_of_keys(seed):
    """Data of every stream's key, of those below it, and of those below them, `[K, 2]`."""
    data = []
    numbers = jnp.arange(COUNT)
    for name in Stream:
        keys = stream_keys(seed, name, numbers)
        below = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))(keys, numbers)
        parts = (stream(seed, name), keys, below, jax.random.split(stream(seed, name), COUNT))
        data += [jax.random.key_data(part).reshape(-1, 2) for part in parts]
    return jnp.concatenate(data)


def test_streams_have_no_key_in_common_whatever_is_folded_in_below():
    data = np.concatenate([_data_of_keys(np.uint32(seed)) for seed in SEEDS])
    # The key of a seed itself, which users may draw from, and what they may fold into it.
    for seed in SEEDS:
        key = jax.random.key(seed)
        users = jax.vmap(jax.random.fold_in, (None, 0))(key, np.arange(1000, 1000 + COUNT))
        data = np.concatenate([data, jax.random.key_data(key)[None], jax.random.key_data(users)])
    # A split has the same keys as folding in the numbers; that is one stream, not two.
    distinct = len(np.unique(data, axis=0))
    each = len(Stream) * (1 + COUNT + COUNT**2) + 1 + COUNT
    assert distinct == len(SEEDS) * each


def test_streams_draw_first_numbers_that_are_all_different():
    drawn = []
    for seed in SEEDS:
        for name in Stream:
            keys = stream_keys(seed, name, np.arange(3))
            rows = [initial_noise(keys, (2,)), *(per_sample_noise(keys, t, (2,)) for t in (0, 1))]
            drawn.append(np.concatenate(rows)[:, 0])
    drawn = np.concatenate(drawn)
    assert len(np.unique(drawn)) == len(drawn)


def test_stream_takes_a_traced_seed_of_32_bits():
    for seed in (0, 7, 2**32 - 1):
        eager, traced = stream(np.uint32(seed), Stream.X_T), jax.jit(stream, static_argnums=1)
        np.testing.assert_array_equal(
            jax.random.key_data(eager), jax.random.key_data(traced(np.uint32(seed), Stream.X_T))
        )


def test_keys_are_made_of_seeds_by_the_table_alone():
    made = [
        path.name
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and ast.unparse(node) in ("jax.random.key", "jax.random.PRNGKey")
    ]
    # The network's shapes are those of any key.
    assert sorted(made) == ["noise.py", "unet.py"]
