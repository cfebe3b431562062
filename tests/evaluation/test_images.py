import types

import numpy as np
import pytest

from iddpm_jax.data import InMemorySource
from iddpm_jax.errors import UsageError
from iddpm_jax.evaluation.images import ImageChoice, open_images
from tests import tiny


@pytest.fixture
def model():
    """A model of ten images, image i of the gray value i."""
    images = np.broadcast_to(np.arange(10, dtype=np.uint8)[:, None, None, None], (10, 4, 4, 1))
    source = InMemorySource(images, np.zeros(10, np.int32), ())
    return types.SimpleNamespace(open_source=lambda split, **options: source)


def test_batches_have_every_image_once_from_the_first_on(model):
    images = open_images(model, ImageChoice("test", batch_size=4), tiny.mesh(1))
    found = list(images.batches(3))
    assert [(start, count) for start, count, _ in found] == [(3, 4), (7, 3)]
    numbers = np.concatenate([batch.indices[batch.valid] for _, _, batch in found])
    assert numbers.tolist() == list(range(3, 10))


def test_open_images_takes_fewer_only_where_they_will_do(model):
    with pytest.raises(UsageError, match="num_samples=11, but there are 10 images; 0 takes all"):
        open_images(model, ImageChoice("test", 11), tiny.mesh(1))
    assert len(open_images(model, ImageChoice("test", 11, fewer_will_do=True), tiny.mesh(1))) == 10
    assert len(open_images(model, ImageChoice("test", 3, fewer_will_do=True), tiny.mesh(1))) == 3
