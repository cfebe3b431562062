import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iddpm_jax.models import LowRes, area_downsample, upsample_bilinear
from tests.reference import channels_last


@pytest.mark.parity
def test_area_downsample_and_bilinear_equal_reference(golden):
    arrays = golden.npz("image_folder")
    images = channels_last(arrays["images"])
    low_res = area_downsample(images, 8)
    error = np.abs(low_res - channels_last(arrays["low_res_8"])).max()
    assert golden.report("super-resolution: area down-sampling", error) < 1e-6
    error = np.abs(
        upsample_bilinear(low_res, images.shape)
        - channels_last(arrays["upsampled_bilinear_from_8"])
    ).max()
    assert golden.report("super-resolution: bilinear up-sampling", error) < 1e-6


@pytest.mark.parametrize(("large", "small"), [(8, 4), (7, 3), (10, 4), (5, 5), (3, 2)])
def test_area_downsample_equals_torch(large, small):
    torch = pytest.importorskip("torch")
    images = np.random.default_rng(0).normal(size=(2, large, large, 3)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.tensor(images).permute(0, 3, 1, 2), small, mode="area"
    )
    expected = expected.permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(area_downsample(images, small), expected, atol=1e-6)


def test_low_res_adds_noise_that_belongs_to_each_image():
    images = jnp.zeros((200, 4, 4, 1))
    keys = jax.random.split(jax.random.key(0), 200)
    plain, noisy = LowRes(2)(images, keys), LowRes(2, 0.5)(images, keys)
    assert plain.shape == (200, 2, 2, 1)
    assert not plain.any()
    assert float(noisy.std()) == pytest.approx(0.5, rel=0.1)
    np.testing.assert_array_equal(LowRes(2, 0.5)(images[7:9], keys[7:9]), noisy[7:9])
