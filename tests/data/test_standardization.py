import numpy as np
import pytest

from iddpm_jax.data.standardization import UNCHANGED, Standardization, measure


def test_measured_standardization_gives_mean_0_and_variance_1_and_is_undone():
    images = np.random.default_rng(0).integers(20, 200, (50, 8, 8, 3)).astype(np.uint8)
    images[..., 1] //= 2
    found = measure([images[:20], images[20:]])
    x = np.asarray(found(images.astype(np.float32) / 127.5 - 1))
    np.testing.assert_allclose(x.mean(axis=(0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(x.std(axis=(0, 1, 2)), 1, atol=1e-4)
    # Rounding down may lose one level.
    assert np.abs(np.asarray(found.to_uint8(x)).astype(int) - images).max() <= 1


def test_unchanged_changes_nothing():
    x = np.linspace(-1, 1, 12, dtype=np.float32).reshape(1, 2, 2, 3)
    assert UNCHANGED(x) is x
    assert UNCHANGED.restore(x) is x
    assert not UNCHANGED.changes
    assert Standardization((0.0,), (2.0,)).changes


def test_measure_refuses_images_of_one_colour():
    with pytest.raises(ValueError, match="channel 0 of the images is the same"):
        measure([np.full((3, 4, 4, 1), 9, np.uint8)])
