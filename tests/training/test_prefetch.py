import functools

import numpy as np
import pytest

from iddpm_jax.data import digits_source, make_batches
from iddpm_jax.distributed.mesh import shard_batch
from iddpm_jax.errors import UsageError
from iddpm_jax.training.prefetch import DataError, DeviceBatches
from tests import tiny


def _put(devices: int):
    return functools.partial(shard_batch, tiny.mesh(devices))


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


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (UsageError("'a.png' cannot be used"), DataError, r"'a\.png' cannot be used"),
        (OSError(5, "broken"), DataError, r"the data cannot be read any more: .* broken"),
        (ValueError("a bug"), ValueError, "a bug"),
    ],
)
def test_device_batches_say_that_it_is_the_data(error, kind, message):
    class Failing:
        image_shape, class_names = (8, 8, 1), ()

        def __len__(self):
            return 100

        def batch(self, indices):
            raise error

    batches = make_batches(Failing(), batch_size=16, seed=0)
    with pytest.raises(kind, match=message) as raised:
        DeviceBatches(batches, _put(1), ("image",)).take()
    assert raised.type is kind
