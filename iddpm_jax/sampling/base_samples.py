"""What is to be enlarged: samples in an npz, or a folder of images.

Axis letters: N images, h w low resolution, C channels.
"""

import math
import os
import zipfile
from typing import BinaryIO, NamedTuple

import numpy as np

from iddpm_jax.data import DataOptions, load_source
from iddpm_jax.errors import UsageError
from iddpm_jax.files.untrusted import open_regular

_MAX_LABELS = 2**31
_MAX_RATIO = 1032  # Bytes that one of a deflated file can stand for.
_PIECE = 2**20  # Bytes that are read at a time.


class BaseSamples(NamedTuple):
    """images: uint8 `[N, h, w, C]`; labels: int32 `[N]`, or None."""

    images: np.ndarray
    labels: np.ndarray | None


def read_npz(path: str, count: int, image_shape: tuple[int, int, int]) -> BaseSamples:
    """Reads the first samples of a file that the sample command, or OpenAI's, wrote.

    Args:
      path: an npz with arr_0 uint8 `[N, h, w, C]` and, where there are labels, arr_1 `[N]`.
      count: how many to read; 0: all.
      image_shape: (h, w, C), what the model takes.

    Raises:
      UsageError: the file cannot be read, holds something else, or fewer samples.
    """
    try:
        with (
            os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file,
            zipfile.ZipFile(file) as archive,
        ):
            largest = os.fstat(file.fileno()).st_size * _MAX_RATIO
            return _read(archive, path, count, image_shape, largest)
    except UsageError:
        raise
    except Exception as error:  # Damaged archives raise errors of many kinds.
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(f"{path} cannot be read as an npz: {reason[:200]}") from error


def _read(archive, path: str, count: int, image_shape, largest: int) -> BaseSamples:
    members = {info.filename: info for info in archive.infolist()}
    if "arr_0.npy" not in members:
        raise UsageError(f"{path} has no arr_0: it is no file of samples")
    for info in members.values():
        # Other ways to compress unpack all that they have at once, however much that becomes.
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UsageError(f"{path} is compressed in a way that numpy does not write")
    with archive.open("arr_0.npy") as file:
        shape, dtype = _header(file, f"{path}: arr_0")
        if dtype != np.uint8 or shape[1:] != image_shape:
            raise UsageError(
                f"{path} has samples of {dtype}, (height, width, channels) {shape[1:]}, but the "
                f"model takes uint8 of {image_shape}"
            )
        if not shape[0] or shape[0] < count:
            raise UsageError(f"{path} has {shape[0]} samples, fewer than the {count} asked for")
        total, count = shape[0], count or shape[0]
        images = _array(file, (count, *image_shape), np.dtype(np.uint8), path, largest)
    if "arr_1.npy" not in members:
        return BaseSamples(images, None)
    with archive.open("arr_1.npy") as file:
        shape, dtype = _header(file, f"{path}: arr_1")
        if shape != (total,) or dtype.kind not in "iu":
            raise UsageError(f"{path} has labels of {dtype} {shape} for {total} samples")
        labels = _array(file, (count,), dtype, path, largest)
    if np.any(labels < 0) or np.any(labels >= _MAX_LABELS):
        raise UsageError(f"{path} has labels that are negative or beyond all reason")
    return BaseSamples(images, labels.astype(np.int32))


def _header(file, what: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of an npy file, before anything of it is read; pickles are refused."""
    try:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):  # Headers of others, which plain arrays do not need, may be huge.
            raise ValueError(f"it is of version {version} of numpy's format, expected (1, 0)")
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    except (ValueError, TypeError, RecursionError) as error:
        raise UsageError(f"{what} cannot be read: {error}") from error
    if fortran_order or dtype.hasobject or not shape or min(shape) < 0:
        raise UsageError(f"{what} is no plain array of {dtype} {shape}")
    return shape, dtype


def _array(
    file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype, path: str, largest: int
) -> np.ndarray:
    """Reads no more than the header says, and takes no more memory than there are data."""
    size = math.prod(shape) * dtype.itemsize
    if size > largest:
        raise UsageError(f"{path} says that it has {size:,} bytes of samples, and is too small")
    try:
        array = np.empty(shape, dtype)
    except MemoryError as error:
        raise UsageError(
            f"{path} has {size / 2**30:,.1f} GiB of samples, more than there is memory for; take "
            "some of them with --num_samples"
        ) from error
    data = memoryview(array.reshape(-1).view(np.uint8))
    done = 0
    while done < size:
        piece = file.read(min(_PIECE, size - done))
        if not piece:
            raise UsageError(f"{path} is cut off")
        data[done : done + len(piece)] = piece
        done += len(piece)
    return array


def read_folder(path: str, count: int, image_shape: tuple[int, int, int]) -> BaseSamples:
    """Reads images of a folder or archive, in the order of their names, without labels.

    One that has not the size that the model takes is scaled and cropped to it.
    """
    size, _, channels = image_shape
    options = DataOptions(
        name="folder", image_size=size, channels=channels, dir=path, split="all", labels="none"
    )
    source = load_source(options)
    if len(source) < count:
        raise UsageError(f"{path} has {len(source)} images, fewer than the {count} asked for")
    return BaseSamples(source.batch(np.arange(count or len(source)))["image"], None)
