"""From a file's bytes to an image of the network's size, pixel for pixel as the reference does it.

Axis letters: H W C image.
"""

import contextlib
import io
from collections.abc import Iterator

import numpy as np
from absl import logging
from PIL import Image, ImageOps, UnidentifiedImageError

from iddpm_jax.errors import UsageError

EXTENSIONS = ("jpg", "jpeg", "png", "gif", "webp", "bmp")
_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP")  # Others are never tried, whatever the file says.
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_ORIENTATION = 0x0112
MAX_PIXELS = 2**27  # Before and after resizing; more is a decompression bomb.


class BadImageError(UsageError):
    """A file that is no image, or a damaged or unreasonable one."""


def size_of(data: bytes) -> tuple[int, int]:
    """Width and height of an image of which nothing is decoded; BadImageError if it is none."""
    with _decoding(), Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        return image.size


@contextlib.contextmanager
def _decoding() -> Iterator[None]:
    """BadImageError for whatever PIL says of a damaged file."""
    try:
        yield
    except (BadImageError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise BadImageError(f"it is no image of the formats {', '.join(_FORMATS)}") from error
    except Exception as error:  # PIL raises many kinds.
        if isinstance(error, OSError) and error.errno is not None:
            raise  # The system's, such as too many open files: PIL's own have no number.
        raise BadImageError(f"{type(error).__name__}: {error}") from error


def decode_image(data: bytes, size: int, channels: int, *, exif: bool = True) -> np.ndarray:
    """Decodes an image, scales its shorter side to `size` and crops the centre.

    It is halved with a box filter while it is at least twice too large, and then scaled with a
    bicubic one. Grey of 16 bits is brought to 8 first, where the reference clips all above 255.

    Args:
      data: a JPEG, PNG, GIF (first frame), WebP or BMP file.
      size: H and W of the result.
      channels: 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA.
      exif: turn the image as its EXIF orientation says. The reference does not.

    Returns:
      uint8 `[size, size, channels]`.

    Raises:
      BadImageError: the file cannot be decoded, or is a decompression bomb.
      OSError, MemoryError: the system failed, not the file.
    """
    with _decoding(), Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        _check_pixels(image.size)
        if exif and image.getexif().get(_ORIENTATION, 1) != 1:
            image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):
            image = _eight_bits(image)
        return _resize_and_crop(image, size, channels)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits, 0 to 65535, as the nearest of 8 bits: 257 levels become one."""
    grey = np.clip(np.asarray(image), 0, 65535).astype(np.uint32)
    return Image.fromarray(((grey + 128) // 257).astype(np.uint8))


def fit_array(pixels: np.ndarray, size: int, channels: int) -> np.ndarray:
    """`decode_image` for an image that is decoded already: uint8 `[H, W, C]`, any H and W."""
    if pixels.dtype != np.uint8:
        raise BadImageError(f"an image of {pixels.dtype}, expected uint8")
    if pixels.shape == (size, size, channels):
        return pixels
    return _resize_and_crop(Image.fromarray(np.squeeze(pixels)), size, channels)


def _resize_and_crop(image: Image.Image, size: int, channels: int) -> np.ndarray:
    if min(image.size) < size:
        logging.log_first_n(logging.WARNING, "images smaller than %d are enlarged", 1, size)
    # In the image's own mode, and converted afterwards: palettes are resized as the reference does.
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    scaled = round(image.width * scale), round(image.height * scale)
    _check_pixels(scaled)
    image = image.resize(scaled, Image.Resampling.BICUBIC).convert(_MODES[channels])
    pixels = np.asarray(image).reshape(scaled[1], scaled[0], channels)
    top, left = (scaled[1] - size) // 2, (scaled[0] - size) // 2
    return np.ascontiguousarray(pixels[top : top + size, left : left + size])


def _check_pixels(size: tuple[int, int]) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise BadImageError(f"{width} × {height} pixels are more than {MAX_PIXELS}")
