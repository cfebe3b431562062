import numpy as np
import pytest

from iddpm_jax.evaluation.image_batches import image_batches, spread_indices

IMAGES = np.arange(7, dtype=np.uint8)[:, None, None, None].repeat(4, axis=1)


def _load(indices):
    return {"image": IMAGES[indices], "label": indices % 3}


def test_image_batches_takes_every_image_exactly_once():
    batches = list(image_batches(_load, np.arange(7), 3))
    assert [batch.count for batch in batches] == [3, 3, 1]
    seen = np.concatenate([batch.indices[: batch.count] for batch in batches])
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
    rest = list(image_batches(_load, np.arange(7), 2, first_batch=2))
    assert len(rest) == 2
    for a, b in zip(whole[2:], rest, strict=True):
        np.testing.assert_array_equal(a.indices, b.indices)


def test_spread_indices_covers_all_images():
    assert spread_indices(7, 0).tolist() == list(range(7))
    assert spread_indices(10, 5).tolist() == [0, 2, 4, 6, 8]
    assert spread_indices(7, 3).tolist() == [0, 2, 4]
    with pytest.raises(ValueError, match="num_samples=8, but there are 7 images"):
        spread_indices(7, 8)
