import numpy as np
import pytest

from iddpm_jax.data import DataOptions, InMemorySource, digits_source, load_source


def test_digits_are_real_scans_in_two_parts():
    train, test, everything = (digits_source(s) for s in ("train", "test", "all"))
    assert (len(train), len(test), len(everything)) == (1500, 297, 1797)
    assert train.image_shape == (8, 8, 1)
    assert train.class_names == tuple("0123456789")
    assert everything.images.min() == 0
    assert everything.images.max() == 255
    np.testing.assert_array_equal(everything.images[1500:], test.images)
    assert set(np.bincount(test.labels) > 20) == {True}


def test_batch_equals_single_images():
    source = digits_source("train")
    batch = source.batch(np.array([3, 1]))
    for i, index in enumerate((3, 1)):
        np.testing.assert_array_equal(batch["image"][i], source[index]["image"])
        assert batch["label"][i] == source[index]["label"]


@pytest.mark.parametrize(
    ("name", "directory", "split", "message"),
    [
        ("digits", "", "valid", r"'valid'.*train, test, all"),
        ("digits", "/data", "train", "data.dir='/data'"),
        ("digits", "", "train[", r"'train\['.*train\[:90%\]"),
        ("folder", "", "train", "needs data.dir"),
        ("didgits", "", "train", "unknown data.name='didgits'"),
    ],
)
def test_load_source_refuses_what_is_not_there(name, directory, split, message):
    with pytest.raises(ValueError, match=message):
        load_source(DataOptions(name, 8, 1, dir=directory, split=split))


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 4, 4, 1)), np.zeros(2, np.int32), "must be uint8"),
        (np.zeros((2, 4, 4), np.uint8), np.zeros(2, np.int32), r"\[N, H, W, C\]"),
        (np.zeros((2, 4, 4, 1), np.uint8), np.zeros(3, np.int32), "2 images"),
        (np.zeros((2, 4, 4, 1), np.uint8), np.array([0, 9]), "labels from 0 to 9 do not fit the 3"),
        (np.zeros((2, 4, 4, 1), np.uint8), np.array([-1, 0]), "labels from -1 to 0 do not fit"),
    ],
)
def test_in_memory_source_refuses_other_arrays(images, labels, message):
    with pytest.raises(ValueError, match=message):
        InMemorySource(images, labels, class_names=("a", "b", "c"))
