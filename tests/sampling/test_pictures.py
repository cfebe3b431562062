"""The pictures of the sample command, drawn in this process."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from iddpm_jax.data import InMemorySource
from iddpm_jax.sampling import generator, pictures
from tests.test_trained import trained_model


@pytest.fixture
def options(tmp_path):
    model = trained_model()
    return pictures.PictureOptions(model, model.generator("ddim", batch_size=8), None, 0, tmp_path)


def _source(count: int, class_names=()):
    images = np.zeros((count, 4, 4, 1), np.uint8)
    labels = np.arange(count, dtype=np.int32) % max(1, len(class_names))
    return InMemorySource(images, labels, class_names)


@pytest.mark.parametrize(
    ("source", "rows"), [(_source(3), 3), (_source(9), 6), (_source(5, ("a", "b")), 2)]
)
def test_write_forward_takes_what_images_there_are(options, source, rows):
    model = dataclasses.replace(options.model, open_source=lambda split, data_dir: source)
    path = pictures.write_forward(dataclasses.replace(options, model=model))
    with Image.open(path) as picture:
        assert picture.size[1] == rows * 34 + 2


def test_pictures_are_drawn_in_batches(options, monkeypatch):
    sizes = []
    trajectory = generator.Generator.trajectory

    def noted(self, seed, indices, *args):
        sizes.append(len(indices))
        return trajectory(self, seed, indices, *args)

    monkeypatch.setattr(generator.Generator, "trajectory", noted)
    pictures.write_film(options)
    assert sizes == [8] * 13
    pictures.write_interpolation(options, (0, 1))
    assert set(sizes) == {8}
