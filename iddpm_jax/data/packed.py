"""Packed images: one file of raw pixels, of which any image can be read. The fastest source.

    DIR/SPLIT/info.json    count, image_size, channels, class_names
    DIR/SPLIT/images.bin   uint8 [N, H, W, C]
    DIR/SPLIT/labels.bin   int32 [N]

What info.json holds is compared with the files, and none of it is ever a path.

Why not array_record (0.8.6, read through Grain)? Its random reads are fast enough, but it does not
bear files that nobody should trust, as measured with 64 × 64 × 3 images, `group_size:1`:

- of a file that is cut short while it is read, it returns empty records and raises nothing: 7,976
  of 8,000, where this module raises an error that names the file;
- its reader has no bound on what one record unpacks to: 128 KiB of file became 1 GiB of memory;
- a footer with wrong sizes and right checksums ends the program (SIGABRT, `basic_string::resize`);
- a file is readable when its writer has closed it, so that a conversion that was killed would
  continue from whole shards only;
- the training pipeline got 20,700 images/s of it without compression and 16,700 with zstd; of this
  module 25,500 (two cores, medians of five passes in turns).

Flipped bits, though, it does find, by its checksums; here they change pixels.

Axis letters: N images, B batch, H W C image.
"""

import errno
import json
import os
import pathlib
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from iddpm_jax.data.options import DataOptions
from iddpm_jax.data.reading import read_with_retries
from iddpm_jax.data.sources import Source, check_labels, fingerprint_of
from iddpm_jax.data.splits import parse_split, slice_of
from iddpm_jax.errors import UsageError
from iddpm_jax.files.untrusted import open_regular, read_json

FORMAT_VERSION = 1


class _Info(NamedTuple):
    """The contents of info.json, checked."""

    count: int
    image_size: int
    channels: int
    class_names: tuple[str, ...]
    fingerprint: str


def packed_source(options: DataOptions) -> Source:
    """Opens a packed split; its pixels are read from disk when they are asked for.

    Raises:
      UsageError: there is no such split, or its files do not fit together.
    """
    base, start, stop = parse_split(options.split)
    folder = pathlib.Path(options.dir) / base
    try:
        info = _read_info(folder / "info.json")
        shape = (info.image_size, info.image_size, info.channels)
        image_bytes = int(np.prod(shape))
        images = _open(folder / "images.bin", info.count * image_bytes)
        labels = _open(folder / "labels.bin", info.count * 4)
        with os.fdopen(labels, "rb") as file:
            numbers = np.frombuffer(file.read(info.count * 4), "<i4").astype(np.int32)
        check_labels(numbers, info.class_names)
    except (OSError, UsageError) as error:
        raise UsageError(
            f"data.dir={options.dir!r} has no packed split {base!r} that can be read ({error}); "
            "python -m iddpm_jax.prepare_data --help says how to make one"
        ) from error
    part = slice_of(info.count, start, stop)
    return PackedSource(images, folder / "images.bin", shape, part, numbers[part], info)


def _read_info(path: pathlib.Path) -> _Info:
    """Raises UsageError for anything that `PackedWriter` would not write."""
    record = read_json(path, "the record")
    if not isinstance(record, dict):
        raise UsageError("info.json holds no record")
    if record.get("format_version") != FORMAT_VERSION:
        raise UsageError(
            f"it has format version {record.get('format_version')!r}, this program reads version "
            f"{FORMAT_VERSION}"
        )
    for key, largest in {"count": 2**40, "image_size": 2**16, "channels": 4}.items():
        value = record.get(key)
        if type(value) is not int or not 1 <= value <= largest:
            raise UsageError(f"info.json has {key}={value!r}, expected 1 to {largest}")
    names, origin = record.get("class_names"), record.get("origin", {})
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UsageError("info.json has class_names that are no list of names")
    if not isinstance(origin, dict):
        raise UsageError("info.json has an origin that is no record")
    sizes = (record["count"], record["image_size"], record["channels"])
    return _Info(*sizes, tuple(names), _fingerprint(record, origin))


def _fingerprint(record: Mapping[str, Any], origin: Mapping[str, Any]) -> str:
    """A digest of the record, without the path that the images came from."""
    origin = {key: value for key, value in origin.items() if key != "source"}
    return fingerprint_of([json.dumps({**record, "origin": origin}, sort_keys=True)])


def _open(path: pathlib.Path, size: int) -> int:
    """A descriptor of a file that has exactly `size` bytes."""
    descriptor = open_regular(path, os.O_RDONLY)
    if (found := os.fstat(descriptor).st_size) != size:
        os.close(descriptor)
        raise UsageError(f"{path.name} has {found:,} bytes, but {size:,} fit what info.json says")
    return descriptor


class PackedSource:
    """Images of one file, read when they are asked for.

    The file is not mapped into memory: if it is cut short meanwhile, reading raises an error, where
    a map would end the program.
    """

    def __init__(self, descriptor: int, path, shape, part: slice, labels: np.ndarray, info: _Info):
        self._descriptor, self._path = descriptor, path
        weakref.finalize(self, os.close, descriptor)
        self._numbers, self.labels = range(info.count)[part], labels
        self.image_shape = shape
        self.class_names, self.fingerprint = info.class_names, info.fingerprint

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {key: value[0] for key, value in self.batch(np.array([index])).items()}

    def batch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        images = np.empty((len(indices), *self.image_shape), np.uint8)
        numbers = [self._numbers[index] for index in indices.tolist()]
        read_with_retries(lambda: self._read(numbers, images), str(self._path))
        return {"image": images, "label": self.labels[indices]}

    def _read(self, numbers: Sequence[int], images: np.ndarray) -> None:
        size = int(np.prod(self.image_shape))
        for number, image in zip(numbers, images, strict=True):
            if os.preadv(self._descriptor, [image], number * size) != size:
                raise OSError(errno.EIO, f"it ends before image {number}, and was longer before")
