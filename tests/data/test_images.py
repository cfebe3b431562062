import io
import warnings

import numpy as np
import pytest
from PIL import Image

from iddpm_jax.data import images
from iddpm_jax.data.images import BadImageError, decode_image, fit_array


def _file(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _gradient(width: int, height: int) -> Image.Image:
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([x % 256, y % 256, (x + y) % 256], -1).astype(np.uint8))


def test_decode_image_crops_the_centre_of_the_longer_side():
    image = _gradient(40, 16)
    result = decode_image(_file(image), 16, 3)
    np.testing.assert_array_equal(result, np.asarray(image)[:, 12:28])


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "WEBP", "JPEG"])
def test_decode_image_gives_the_wanted_channels(channels, kind):
    result = decode_image(_file(_gradient(30, 20), kind), 8, channels)
    assert (result.shape, result.dtype) == ((8, 8, channels), np.uint8)
    if channels in (2, 4):
        assert (result[..., -1] == 255).all()  # Alpha.


def test_decode_image_enlarges_smaller_images():
    assert decode_image(_file(_gradient(5, 3)), 16, 3).shape == (16, 16, 3)


def test_decode_image_turns_as_exif_says_unless_told_not_to():
    image = _gradient(16, 16)
    exif = Image.Exif()
    exif[0x0112] = 6  # To be turned clockwise by 90 degrees.
    data = _file(image, "PNG", exif=exif)
    turned = np.rot90(np.asarray(image), k=-1)
    np.testing.assert_array_equal(decode_image(data, 16, 3), turned)
    np.testing.assert_array_equal(decode_image(data, 16, 3, exif=False), np.asarray(image))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_decode_image_scales_grey_of_16_bits(channels):
    levels = np.array([[0, 128, 129, 257], [385, 386, 32768, 65535]] * 2, np.uint16)
    result = decode_image(_file(Image.fromarray(levels)), 4, channels)
    np.testing.assert_array_equal(result[..., 0], np.round(levels / 257))
    assert result[..., 0].max() == 255


def test_decode_image_leaves_errors_of_the_system_to_others(monkeypatch):
    def fail(*arguments, **options):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("PIL.Image.open", fail)
    with pytest.raises(OSError, match="Too many open files"):
        decode_image(_file(_gradient(4, 4)), 4, 3)


def test_decode_image_refuses_damaged_files():
    whole = _file(_gradient(64, 64))
    for data in (b"", b"not an image", whole[:100], whole[: len(whole) // 2], b"%!PS-Adobe-3.0"):
        with pytest.raises(BadImageError):
            decode_image(data, 16, 3)


def test_decode_image_refuses_decompression_bombs(monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 1000)
    with pytest.raises(BadImageError, match="64 × 64 pixels are more than 1000"):
        decode_image(_file(_gradient(64, 64)), 8, 3)
    # A thin strip that would be enormous when its shorter side is scaled up.
    with pytest.raises(BadImageError, match="6400 × 64 pixels"):
        decode_image(_file(_gradient(100, 1)), 64, 3)


def test_fit_array_leaves_an_image_of_the_right_size_alone():
    pixels = np.asarray(_gradient(16, 16))
    assert fit_array(pixels, 16, 3) is pixels
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fit_array(np.zeros((20, 30, 1), np.uint8), 8, 1).shape == (8, 8, 1)
