import numpy as np
import pytest

from iddpm_jax.data import InMemorySource, make_batches


def _source(count=20):
    images = np.arange(count * 12, dtype=np.uint8).reshape(count, 2, 6, 1)
    return InMemorySource(images, np.arange(count, dtype=np.int32))


def _take(iterator, count):
    return [next(iterator) for _ in range(count)]


def _labels(batches):
    return [batch["label"].tolist() for batch in batches]


def test_make_batches_scales_images_and_keeps_labels():
    source = _source()
    batch = next(make_batches(source, batch_size=5, seed=0))
    assert batch["image"].dtype == np.float32
    assert batch["label"].dtype == np.int32
    expected = source.images[batch["label"]].astype(np.float32) / 127.5 - 1
    np.testing.assert_array_equal(batch["image"], expected)
    assert np.abs(batch["image"]).max() <= 1


def test_make_batches_shows_every_image_once_an_epoch_in_new_order():
    labels = _labels(_take(make_batches(_source(), batch_size=5, seed=0), 8))
    first, second = (np.concatenate(part).tolist() for part in (labels[:4], labels[4:]))
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second != list(range(20))


def test_make_batches_depends_on_the_seed_alone():
    one, same, other = (
        _labels(_take(make_batches(_source(), batch_size=5, seed=seed, num_workers=workers), 3))
        for seed, workers in ((1, 0), (1, 3), (2, 0))
    )
    assert one == same != other


@pytest.mark.parametrize("workers", [0, 2])
def test_make_batches_continues_where_its_state_says(workers):
    arguments = {"batch_size": 5, "seed": 3, "random_flip": True}
    original = make_batches(_source(), **arguments, num_workers=workers)
    _take(original, 6)
    state = original.get_state()
    expected = _take(original, 3)
    continued = make_batches(_source(), **arguments)
    continued.set_state(state)
    for a, b in zip(expected, _take(continued, 3), strict=True):
        np.testing.assert_array_equal(a["image"], b["image"])
        np.testing.assert_array_equal(a["label"], b["label"])


def test_make_batches_cuts_the_same_global_batch_for_any_process_count():
    arguments = {"batch_size": 8, "seed": 0, "random_flip": True}
    whole = _take(make_batches(_source(), **arguments), 4)
    parts = [
        _take(make_batches(_source(), **arguments, process_index=i, process_count=4), 4)
        for i in range(4)
    ]
    for step, batch in enumerate(whole):
        for name, value in batch.items():
            together = np.concatenate([part[step][name] for part in parts])
            np.testing.assert_array_equal(value, together)


def test_make_batches_flips_half_of_the_images():
    source = _source()
    flipped = []
    for batch in _take(make_batches(source, batch_size=10, seed=0, random_flip=True), 40):
        plain = source.images[batch["label"]].astype(np.float32) / 127.5 - 1
        for image, original in zip(batch["image"], plain, strict=True):
            is_flipped = not np.array_equal(image, original)
            np.testing.assert_array_equal(image, original[:, ::-1] if is_flipped else original)
            flipped.append(is_flipped)
    assert 150 < sum(flipped) < 250


def test_make_batches_refuses_impossible_batches():
    with pytest.raises(ValueError, match="batch_size=21 is more than the 20 images"):
        make_batches(_source(), batch_size=21, seed=0)
    with pytest.raises(ValueError, match="batch_size=8 is not divisible by 3 processes"):
        make_batches(_source(), batch_size=8, seed=0, process_count=3)
