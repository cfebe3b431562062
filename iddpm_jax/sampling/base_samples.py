"""What is to be enlarged: samples in an npz, or a folder of images.

Axis letters: N images, h w low resolution, C channels.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8

from iddpm_jax.data import DataOptions, load_source
from iddpm_jax.errors import UsageError
from iddpm_jax.files.npz import DamagedError, Npz, open_npz

_MAX_LABELS = 2**31
_ROWS = 64  # Samples that are read at a time.


class BaseSamples(NamedTuple):
    """Images, and their labels where the file has some."""

    images: UInt8[np.ndarray, "N h w c"]
    labels: Int32[np.ndarray, " N"] | None


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
        with open_npz(path, compressed=True) as npz:
            return _read(npz, path, count, image_shape)
    except DamagedError as error:
        raise UsageError(f"{path} cannot be read as an npz: {error.reason}") from error


def _read(npz: Npz, path: str, count: int, image_shape: tuple[int, int, int]) -> BaseSamples:
    if "arr_0" not in npz.names:
        raise UsageError(f"{path} has no arr_0: it is no file of samples")
    (total, *shape), dtype = npz.kind("arr_0")
    if dtype != np.uint8 or tuple(shape) != image_shape:
        raise UsageError(
            f"{path} has samples of {dtype}, (height, width, channels) {tuple(shape)}, but the "
            f"model takes uint8 of {image_shape}"
        )
    if not total or total < count:
        raise UsageError(f"{path} has {total} samples, fewer than the {count} asked for")
    count = count or total
    images = _first_images(npz, path, (count, *image_shape))
    if "arr_1" not in npz.names:
        return BaseSamples(images, None)
    kind = npz.kind("arr_1")
    if kind.shape != (total,) or kind.dtype.kind not in "iu":
        raise UsageError(f"{path} has labels of {kind.dtype} {kind.shape} for {total} samples")
    labels = npz.read("arr_1")[:count]
    if np.any(labels < 0) or np.any(labels >= _MAX_LABELS):
        raise UsageError(f"{path} has labels that are negative or beyond all reason")
    return BaseSamples(images, labels.astype(np.int32))


def _first_images(npz: Npz, path: str, shape: tuple[int, ...]) -> np.ndarray:
    try:
        images = np.empty(shape, np.uint8)
    except MemoryError as error:
        raise UsageError(
            f"{path} has {math.prod(shape) / 2**30:,.1f} GiB of samples, more than there is memory "
            "for; take some of them with --num_samples"
        ) from error
    first = 0
    for rows in npz.rows("arr_0", _ROWS, len(images)):
        images[first : first + len(rows)] = rows
        first += len(rows)
    return images


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
