import numpy as np
import pytest

from iddpm_jax.data.image_batches import image_batches, one_of_each_class, spread_indices

IMAGES = np.arange(7, dtype=np.uint8)[:, None, None, None].repeat(4, axis=1)


def _load(indices):
    return {"image": IMAGES[indices], "label": indices % 3}


def test_image_batches_takes_every_image_exactly_once():
    batches = list(image_batches(_load, np.arange(7), 3))
    assert [batch.num_valid for batch in batches] == [3, 3, 1]
    seen = np.concatenate([batch.indices[: batch.num_valid] for batch in batches])
    assert seen.tolist() == list(range(7))
    # The last batch is filled up to the size of all, with rows that do not count.
    assert {batch.images.shape for batch in batches} == {(3, 4, 1, 1)}
    assert batches[-1].valid.tolist() == [True, False, False]
    for batch in batches:
        np.testing.assert_array_equal(batch.labels, batch.indices % 3)
        expected = batch.indices.astype(np.float32)[:, None] / 127.5 - 1
        np.testing.assert_array_equal(batch.images[:, :1, 0, 0], expected)


def test_image_batches_continues_where_it_is_told_to():
    whole = list(image_batches(_load, np.arange(7), 2))
    rest = list(image_batches(_load, np.arange(7), 2, first=4))
    assert len(rest) == 2
    for a, b in zip(whole[2:], rest, strict=True):
        np.testing.assert_array_equal(a.indices, b.indices)


def test_spread_indices_covers_all_images():
    assert spread_indices(7, 0).tolist() == list(range(7))
    assert spread_indices(10, 5).tolist() == [0, 2, 4, 6, 8]
    assert spread_indices(7, 3).tolist() == [0, 2, 4]
    with pytest.raises(ValueError, match="num_samples=8, but there are 7 images"):
        spread_indices(7, 8)


class _Unread:
    """A source of 3,000 images, sorted by class, that has to read an image to know its label."""

    class_names = tuple("abcdefgh")

    def __init__(self):
        self.read = 0

    def __len__(self):
        return 3000

    def batch(self, indices):
        self.read += len(indices)
        return {"label": np.asarray(indices) // 375}


def test_one_of_each_class_reads_a_few_images_for_their_labels():
    source = _Unread()
    chosen = one_of_each_class(source, 6)
    assert len(set(chosen // 375)) == 6
    assert source.read <= 64


def test_one_of_each_class_gives_up_on_a_class_that_is_nowhere():
    source = _Unread()
    source.class_names = tuple(map(str, range(100)))
    assert len(one_of_each_class(source, 20)) == 8
    assert source.read == 512


def test_one_of_each_class_reads_nothing_where_labels_are_known():
    source = _Unread()
    source.labels = np.array([2, 2, 0, 1, 0])
    assert one_of_each_class(source, 2).tolist() == [2, 3]
    assert source.read == 0


def test_one_of_each_class_takes_the_first_images_where_there_are_no_classes():
    source = _Unread()
    source.class_names = ()
    assert one_of_each_class(source, 6).tolist() == list(range(6))
