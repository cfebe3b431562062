"""Image files: their names, and bounds on reading them."""

import os
from collections.abc import Callable
from typing import BinaryIO, NamedTuple

import numpy as np

from iddpm_jax.data.images import EXTENSIONS, BadImageError, decode_image, size_of
from iddpm_jax.errors import UsageError
from iddpm_jax.files.untrusted import open_regular

MAX_FILE_SIZE = 2**28  # Bytes of one image file, as it is and unpacked.
_PIECE = 2**20  # Bytes that are read at a time.


class Listing(NamedTuple):
    """Image files, in the order of the reference.

    names: paths relative to the folder or archive, with forward slashes. They are looked up, and
      never become paths of files that are written.
    read: a name to the file's bytes; safe to call from several threads. BadImageError for a file
      that can never be used, OSError where the system fails.
    """

    names: tuple[str, ...]
    read: Callable[[str], bytes]


def is_image(name: str) -> bool:
    """Whether a file's name, without its folder, is that of an image."""
    stem, dot, extension = name.rpartition(".")
    return bool(dot) and extension.lower() in EXTENSIONS and not stem.startswith("._")


def read_bounded(file: BinaryIO) -> bytes:
    """Reads a file to its end, counting the bytes: an archive's word for its size is not taken.

    Raises:
      BadImageError: it has more than `MAX_FILE_SIZE` bytes.
    """
    data = bytearray()
    while piece := file.read(_PIECE):
        data += piece
        if len(data) > MAX_FILE_SIZE:
            raise BadImageError(f"it has more than {MAX_FILE_SIZE:,} bytes")
    return bytes(data)


def read_exact(path: str, image_shape: tuple[int, int, int]) -> np.ndarray:
    """Reads an image file of exactly the given size.

    Args:
      path: a JPEG, PNG, GIF, WebP or BMP file.
      image_shape: (H, W, C) with H = W; C as in `decode_image`.

    Returns:
      uint8 `[H, W, C]`.

    Raises:
      UsageError: it cannot be read as an image, or has another size.
    """
    height, width, channels = image_shape
    try:
        with os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file:
            data = read_bounded(file)
        # Known before anything is decoded, however large that would become.
        found = size_of(data)
        if found != (width, height):
            raise UsageError(
                f"{path} is {found[0]} x {found[1]}, the model needs {width} x {height}"
            )
        return decode_image(data, width, channels, exif=False)
    except (OSError, BadImageError) as error:
        raise UsageError(f"{path} cannot be read as an image: {error}") from error
