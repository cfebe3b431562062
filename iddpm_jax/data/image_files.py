"""Image files: what they are called, and how much of one is read."""

from collections.abc import Callable
from typing import BinaryIO, NamedTuple

from iddpm_jax.data.images import EXTENSIONS, BadImageError

MAX_FILE_SIZE = 2**28  # Bytes of one image file, as it is and unpacked.
_PIECE = 2**20  # Bytes that are read at a time.


class Listing(NamedTuple):
    """Image files, in the order of the reference.

    names: paths relative to the folder or archive, with forward slashes. They are looked up, and
      never become paths of files that are written.
    read: a name to the file's bytes; safe to call from several threads. BadImageError for what
      will never be an image, OSError where the system fails.
    """

    names: tuple[str, ...]
    read: Callable[[str], bytes]


def is_image(name: str) -> bool:
    """Whether a file's name, without its folder, is that of an image."""
    stem, dot, extension = name.rpartition(".")
    return bool(dot) and extension.lower() in EXTENSIONS and not stem.startswith("._")


def read_bounded(file: BinaryIO) -> bytes:
    """Reads a file to its end.

    What is read is counted, and not what an archive says that it unpacks to.

    Raises:
      BadImageError: it has more than `MAX_FILE_SIZE` bytes.
    """
    data = bytearray()
    while piece := file.read(_PIECE):
        data += piece
        if len(data) > MAX_FILE_SIZE:
            raise BadImageError(f"it has more than {MAX_FILE_SIZE:,} bytes")
    return bytes(data)
