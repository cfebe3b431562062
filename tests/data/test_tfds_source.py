import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from iddpm_jax.data import DataOptions, load_source, tfds_source


@pytest.fixture
def cifar10(monkeypatch, tmp_path):
    """CIFAR-10 as TFDS mocks it: random images, nothing on disk."""
    builder = tfds_source.load_builder("cifar10", str(tmp_path))
    monkeypatch.setattr(type(builder), "is_prepared", lambda self: True)
    monkeypatch.setattr(type(builder.info), "splits", {"train": None, "test": None})
    with tfds.testing.mock_data(num_examples=24):
        yield DataOptions("tfds:cifar10", 32, 3, dir=str(tmp_path))


def _changed(options, **fields):
    return DataOptions(**{**options.__dict__, **fields})


def test_tfds_is_read_without_tensorflow(cifar10):
    held = load_source(_changed(cifar10, labels="prefix"))
    assert held.image_shape == (32, 32, 3)
    assert len(held) == 24
    assert len(held.class_names) == 10
    assert "tensorflow" not in sys.modules
    read = load_source(_changed(cifar10, labels="prefix", cache_mb=0))
    indices = np.array([3, 0, 23])
    for key, value in held.batch(indices).items():
        np.testing.assert_array_equal(read.batch(indices)[key], value)
    assert read.fingerprint == held.fingerprint
    other = load_source(_changed(cifar10, labels="prefix", split="test"))
    assert other.fingerprint != held.fingerprint != ""
    assert load_source(cifar10).class_names == ()


def test_tfds_refuses_what_does_not_fit(cifar10):
    wrong = {
        r"\(32, 32, 3\), but the model takes \(16, 16, 3\)": {"image_size": 16},
        "the model takes .32, 32, 1.": {"channels": 1},
        "cifar10 has test, train": {"split": "valid"},
        "'tfds:no_such_set' cannot be opened": {"name": "tfds:no_such_set"},
    }
    for message, fields in wrong.items():
        with pytest.raises(ValueError, match=message):
            load_source(_changed(cifar10, **fields))


def test_tfds_that_is_not_prepared_says_how(tmp_path):
    with pytest.raises(ValueError, match=r"python -m iddpm_jax\.prepare_data mnist --data_dir="):
        load_source(DataOptions("tfds:mnist", 28, 1, dir=str(tmp_path)))


def test_check_network_says_so_within_seconds(monkeypatch):
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tfds_source, "_HOST", ("host.invalid", 443))
    with pytest.raises(ValueError, match=r"there is no network: host\.invalid"):
        tfds_source.check_network()


def test_tfds_images_are_made_smaller_by_means_where_that_is_asked_for(cifar10):
    large = load_source(cifar10).batch(np.arange(4))["image"].astype(float)
    small = load_source(_changed(cifar10, image_size=16, resize=True))
    assert small.image_shape == (16, 16, 3)
    expected = large.reshape(4, 16, 2, 16, 2, 3).mean(axis=(2, 4))
    # Rounded twice, once along each axis.
    assert np.abs(small.batch(np.arange(4))["image"] - expected).max() <= 1


def test_tfds_takes_several_splits(cifar10):
    assert len(load_source(_changed(cifar10, split="train+test"))) >= 24
    with pytest.raises(ValueError, match=r"'train\+validation': cifar10 has test, train"):
        load_source(_changed(cifar10, split="train+validation"))
