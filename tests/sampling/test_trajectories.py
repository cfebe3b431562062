import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iddpm_jax.sampling import trajectories as tr
from tests import tiny
from tests.sampling.test_generator import _draw, _generator

LABELS = np.array([0, 1, 2], np.int32)


@pytest.mark.parametrize("devices", [1, 2])
def test_reverse_process_ends_in_the_samples(devices):
    generator = _generator("ddim", devices=devices)
    x_t, pred_xstart = tr.reverse_process(generator, 4, LABELS, 3, seed=0)
    assert x_t.shape == pred_xstart.shape == (4, 3, 4, 4, 1)
    samples = _draw(generator, count=3)
    assert np.abs(x_t[-1].astype(int) - samples).max() <= 1
    # What is drawn at first is noise, what is predicted is not.
    assert x_t[0].std() > 2 * x_t[-1].std()


def test_forward_process_goes_from_image_to_noise():
    d = _generator().d
    images = np.full((2, 4, 4, 1), 200, np.uint8)
    x_t, timesteps = tr.forward_process(d, images, 5, seed=0)
    assert x_t.shape == (5, 2, 4, 4, 1)
    assert (timesteps[0], timesteps[-1]) == (0, d.num_timesteps - 1)
    spread = x_t.reshape(5, -1).std(axis=1)
    assert np.all(np.diff(spread) > 0)
    assert np.abs(x_t[0].astype(int) - 200).max() < 30


def test_invert_comes_back_to_the_image():
    generator = _generator("ddim")
    images = _draw(generator, count=3)
    noise, reconstruction = tr.invert(generator, images, LABELS)
    assert noise.shape == images.shape
    assert noise.dtype == np.float32
    assert np.abs(reconstruction.astype(int) - images).mean() < 3


def test_slerp_keeps_the_length_of_noise():
    a, b = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    path = tr.slerp(a, b, np.linspace(0, 1, 5))
    np.testing.assert_allclose(path[0], a, atol=1e-5)
    np.testing.assert_allclose(path[-1], b, atol=1e-5)
    lengths = np.linalg.norm(np.asarray(path).reshape(5, -1), axis=1)
    np.testing.assert_allclose(lengths, np.sqrt(a.size), rtol=0.03)


def test_slerp_of_one_point_stays_there():
    a = jnp.arange(4.0)
    np.testing.assert_allclose(tr.slerp(a, a, [0, 0.3, 1]), np.stack([a] * 3), rtol=1e-6)


def test_interpolate_goes_from_one_seeds_sample_to_the_others():
    generator = _generator("ddim")
    images = tr.interpolate(generator, (0, 5), 4, LABELS[:2])
    assert images.shape == (2, 4, 4, 4, 1)
    for seed, frame in ((0, 0), (5, -1)):
        sample = _draw(generator, count=1, batch_size=1, seed=seed, labels=(0,))
        assert np.abs(images[0, frame].astype(int) - sample[0]).max() <= 1
    assert (images[0] != images[1]).any()


@pytest.mark.parametrize("options", [{"sampler": "ddpm"}, {"sampler": "ddim", "eta": 0.5}])
def test_interpolate_refuses_samplers_that_add_noise(options):
    with pytest.raises(ValueError, match="needs a deterministic sampler"):
        tr.interpolate(_generator(**options), (0, 1), 3, LABELS)


def _reverse(batch_size=0):
    generator = _generator("ddim", batch_size=batch_size)
    x_t, x_0 = tr.reverse_process(generator, 4, LABELS, 3, seed=0)
    return np.concatenate([x_t, x_0])


def _interpolated(batch_size=0):
    return tr.interpolate(_generator("ddim", batch_size=batch_size), (0, 5), 4, LABELS[:2])


def _inverted(batch_size=0):
    images = np.arange(48, dtype=np.uint8).reshape(3, 4, 4, 1) * 5
    noise, back = tr.invert(_generator("ddim", batch_size=batch_size), images, LABELS)
    assert noise.shape == images.shape
    return back


def _forward(batch_size=0):
    return tr.forward_process(_generator().d, np.full((2, 4, 4, 1), 200, np.uint8), 5, seed=0)[0]


@pytest.mark.parametrize("make", [_reverse, _interpolated, _inverted])
def test_trajectories_are_the_same_for_any_batch_size(make):
    assert np.abs(make().astype(int) - make(batch_size=2)).max() <= 1


@pytest.mark.parametrize("make", [_reverse, _interpolated, _inverted, _forward])
def test_trajectories_compile_nothing_the_second_time(make):
    first = make(batch_size=2)
    with tiny.compilations() as compilations:
        np.testing.assert_array_equal(first, make(batch_size=2))
    assert compilations == []
