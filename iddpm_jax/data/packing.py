"""Packs images: from a folder, an archive, ImageNet's npz files or LSUN's lmdb.

An origin has its images in a fixed order, so that packing may resume at any of them.
Axis letters: H W C image.
"""

import hashlib
import pathlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from absl import logging

from iddpm_jax.data.folder import check_labelled, class_names_of, class_of
from iddpm_jax.data.image_files import MAX_FILE_SIZE
from iddpm_jax.data.images import BadImageError, decode_image, fit_array
from iddpm_jax.data.listing import list_images
from iddpm_jax.data.packed_writer import PackedWriter
from iddpm_jax.data.reading import read_with_retries
from iddpm_jax.errors import UsageError
from iddpm_jax.files.npz import DamagedError, open_npz
from iddpm_jax.files.workdir import as_json

_AT_ONCE = 256  # Images that are decoded before they are written.
_LMDB_SLACK = 2**20  # Bytes of pages that were given back last, and need not be there.


class Origin(NamedTuple):
    """Images to pack.

    count: number of images.
    read: number to (uint8 `[H, W, C]`, label); called from several threads. BadImageError for an
      image that can never be used, OSError where the system fails.
    name: number to the image's name in warnings.
    class_names: in the order of the labels; empty if unlabelled.
    """

    count: int
    read: Callable[[int], tuple[np.ndarray, int]]
    name: Callable[[int], str]
    class_names: tuple[str, ...]


def folder_origin(
    source: pathlib.Path, size: int, channels: int, labels: str, exif: bool
) -> Origin:
    """A folder or archive, such as ImageNet's with one directory for each class."""
    listing = list_images(source)
    check_labelled(listing.names, labels, str(source))
    classes = () if labels == "none" else class_names_of(listing.names, labels)
    ids = {name: i for i, name in enumerate(classes)}

    def read(number: int) -> tuple[np.ndarray, int]:
        name = listing.names[number]
        image = decode_image(listing.read(name), size, channels, exif=exif)
        return image, ids[class_of(name, labels)] if classes else 0

    return Origin(len(listing.names), read, lambda number: listing.names[number], classes)


def imagenet_npz_origin(source: pathlib.Path, size: int) -> Origin:
    """Down-sampled ImageNet: npz files with `data` uint8 [N, 3·64·64] and `labels` from 1 on."""
    files = sorted(source.glob("*.npz")) if source.is_dir() else [source]
    if not files:
        raise UsageError(f"--source={source} has no .npz files")
    parts = [_npz_part(file) for file in files]
    starts = np.cumsum([0, *(len(labels) for _, labels in parts)])

    def read(number: int) -> tuple[np.ndarray, int]:
        part = int(np.searchsorted(starts, number, side="right")) - 1
        data, labels = parts[part]
        row = number - starts[part]
        pixels = data[row]
        side = round((pixels.size / 3) ** 0.5)
        if pixels.size != 3 * side * side:
            raise BadImageError(f"{pixels.size} values are no square RGB image")
        image = pixels.reshape(3, side, side).transpose(1, 2, 0)
        return fit_array(np.ascontiguousarray(image), size, 3), int(labels[row]) - 1

    classes = int(max(labels.max() for _, labels in parts))
    names = tuple(str(i) for i in range(classes))
    return Origin(int(starts[-1]), read, lambda number: f"image {number}", names)


def _npz_part(file: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    if not file.is_file():
        raise UsageError(f"{file} is no file")
    try:
        with open_npz(file, compressed=True) as npz:
            data = npz.read("data")
            labels = npz.read("labels").reshape(-1).astype(np.int64)
    except DamagedError as error:
        raise UsageError(
            f"{file} is not a part of down-sampled ImageNet: {error.reason}"
        ) from error
    if data.dtype != np.uint8 or len(data) != len(labels) or labels.min() < 1:
        raise UsageError(
            f"{file}: data of {data.dtype} {data.shape} with labels from {labels.min()} are not "
            "those of down-sampled ImageNet"
        )
    return data.reshape(len(data), -1), labels


def lsun_origin(source: pathlib.Path, size: int, channels: int) -> Origin:
    """An LSUN lmdb: one encoded image for each key.

    The library maps it into memory, so it must not change while it is read.
    """
    try:
        import lmdb
    except ImportError as error:
        raise UsageError(
            "reading an lmdb needs the package lmdb: pip install -r requirements-tfds.txt"
        ) from error
    file = source / "data.mdb" if source.is_dir() else source
    if not file.is_file():
        raise UsageError(f"--source={source} is no lmdb: {file} is no file")
    try:
        database = lmdb.open(
            str(source), subdir=source.is_dir(), readonly=True, lock=False, max_readers=64
        )
        _check_whole(file, (database.info()["last_pgno"] + 1) * database.stat()["psize"])
        with database.begin() as transaction:
            keys = list(transaction.cursor().iternext(keys=True, values=False))
    except lmdb.Error as error:
        raise UsageError(f"--source={source} is no lmdb that can be read: {error}") from error

    def read(number: int) -> tuple[np.ndarray, int]:
        try:
            with database.begin(buffers=True) as transaction:
                data = transaction.get(keys[number]) or b""
                if len(data) > MAX_FILE_SIZE:
                    raise BadImageError(f"it has more than {MAX_FILE_SIZE:,} bytes")
                data = bytes(data)
        except lmdb.Error as error:
            raise BadImageError(f"{type(error).__name__}: {error}") from error
        return decode_image(data, size, channels), 0

    return Origin(len(keys), read, lambda number: repr(keys[number]), ())


def _check_whole(file: pathlib.Path, size: int) -> None:
    """Raises UsageError for a truncated lmdb: reading a missing page would end the program."""
    found = file.stat().st_size
    if found < size - _LMDB_SLACK:
        raise UsageError(
            f"{file} is truncated, or still being written: it has {found:,} bytes, and its header "
            f"says {size:,}"
        )


def pack(
    origin: Origin,
    writer: PackedWriter,
    threads: int,
    on_image: Callable[[], object] = lambda: None,
) -> tuple[int, int]:
    """Packs the images that the writer has not seen yet.

    Returns:
      How many images the split has, and how many of this call were bad.
    """
    bad = 0
    for number, item in _decoded(origin, writer.seen, threads):
        if isinstance(item, BadImageError):
            logging.warning("%s is left out: %s", origin.name(number), item)
            writer.add(None, 0)
            bad += 1
        else:
            writer.add(*item)
        on_image()
    return writer.finish(origin.class_names), bad


def _decoded(
    origin: Origin, start: int, threads: int
) -> Iterator[tuple[int, tuple[np.ndarray, int] | BadImageError]]:
    def read(number: int) -> tuple[np.ndarray, int] | BadImageError:
        try:
            return read_with_retries(lambda: origin.read(number), origin.name(number))
        except BadImageError as error:
            return error

    with ThreadPoolExecutor(threads) as pool:
        for first in range(start, origin.count, _AT_ONCE):
            numbers = range(first, min(first + _AT_ONCE, origin.count))
            yield from zip(numbers, pool.map(read, numbers), strict=True)


def describe(
    kind: str, source: pathlib.Path, options: Sequence[object], origin: Origin
) -> dict[str, object]:
    """A record of an origin. A conversion continues only if its record is the same."""
    names = hashlib.sha256()
    for number in range(origin.count):
        names.update(origin.name(number).encode("utf-8", "surrogateescape") + b"\n")
    record = {"kind": kind, "source": str(source), "options": list(options)}
    return as_json({**record, "names": names.hexdigest()})
