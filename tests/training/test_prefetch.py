import functools

import numpy as np
import pytest

from iddpm_jax.data import digits_source, make_batches
from iddpm_jax.training import sharding
from iddpm_jax.training.prefetch import DataError, DeviceBatches
from tests import tiny


def _put(devices: int):
    return functools.partial(sharding.shard_batch, tiny.mesh(devices))


def _batches():
    return make_batches(digits_source("train"), batch_size=16, seed=0)


def test_device_batches_are_those_of_the_iterator_and_know_their_position():
    plain, ahead = _batches(), DeviceBatches(_batches(), _put(8), ("image", "label"))
    assert ahead.position == plain.get_state()
    for _ in range(3):
        expected, batch = next(plain), ahead.take()
        ahead.fetch()
        ahead.fetch()  # Only ever one.
        for name, value in expected.items():
            np.testing.assert_array_equal(batch[name], value)
        # What is fetched ahead has not been taken.
        assert ahead.position == plain.get_state()
    resumed = _batches()
    resumed.set_state(ahead.position)
    np.testing.assert_array_equal(next(resumed)["image"], ahead.take()["image"])


def test_device_batches_say_that_it_is_the_data():
    class Bad:
        def get_state(self):
            return {}

        def __next__(self):
            raise ValueError("'a.png' cannot be used")

    with pytest.raises(DataError, match=r"'a\.png' cannot be used"):
        DeviceBatches(Bad(), _put(1), ("image",)).take()
