"""Packed images: one file of raw pixels, mapped into memory. The fastest source.

    DIR/SPLIT/info.json    count, image_size, channels, class_names
    DIR/SPLIT/images.bin   uint8 [N, H, W, C]
    DIR/SPLIT/labels.bin   int32 [N]

Axis letters: N images, B batch, H W C image.
"""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from iddpm_jax.data.options import DataOptions
from iddpm_jax.data.sources import InMemorySource
from iddpm_jax.data.splits import parse_split, slice_of

FORMAT_VERSION = 1
_SAVE_EVERY = 1000


def packed_source(options: DataOptions) -> InMemorySource:
    """Opens a packed split; its pixels are read from disk when they are asked for.

    Raises:
      ValueError: there is no such split, or its files do not fit together.
    """
    base, start, stop = parse_split(options.split)
    folder = pathlib.Path(options.dir) / base
    try:
        info = json.loads((folder / "info.json").read_text(encoding="utf-8"))
        shape = (info["count"], info["image_size"], info["image_size"], info["channels"])
        version, class_names = info["format_version"], tuple(info["class_names"])
        if version != FORMAT_VERSION:
            raise ValueError(f"it has format version {version}, this program reads version 1")
        images = np.memmap(folder / "images.bin", np.uint8, "r", shape=shape)
        labels = np.fromfile(folder / "labels.bin", np.int32)
        if (folder / "images.bin").stat().st_size != images.size or len(labels) != len(images):
            raise ValueError("its files do not have as many images as info.json says")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"data.dir={options.dir!r} has no packed split {base!r} that can be read ({error}); "
            "python -m iddpm_jax.prepare_data --help says how to make one"
        ) from error
    part = slice_of(len(images), start, stop)
    return InMemorySource(images[part], labels[part], class_names)


class PackedWriter:
    """Writes a packed split piece by piece; one that was stopped continues.

    `seen` counts the images of the origin that were dealt with, the bad ones included, when the
    writer was opened.
    """

    def __init__(
        self, folder: pathlib.Path, shape: tuple[int, int, int], origin: Mapping[str, Any]
    ):
        self._folder, self._shape, self._origin = folder, shape, dict(origin)
        self._progress = folder / "progress.json"
        if (folder / "info.json").exists():
            raise ValueError(f"{folder} is complete already")
        folder.mkdir(parents=True, exist_ok=True)
        self.seen = self._kept = 0
        if self._progress.exists():
            before = json.loads(self._progress.read_text(encoding="utf-8"))
            if before["origin"] != self._origin:
                raise ValueError(
                    f"{folder} was begun from {before['origin']}, not from {self._origin}; choose "
                    "another --out"
                )
            self.seen, self._kept = before["seen"], before["kept"]
        # What was written after the last note of progress is written again.
        self._images = self._opened("images.bin", self._kept * int(np.prod(shape)))
        self._labels = self._opened("labels.bin", self._kept * 4)

    def _opened(self, name: str, size: int):
        file = (self._folder / name).open("ab")
        file.truncate(size)
        return file

    def add(self, image: np.ndarray | None, label: int) -> None:
        """Adds the next image of the origin; None for a bad one."""
        self.seen += 1
        if image is not None:
            if image.shape != self._shape or image.dtype != np.uint8:
                raise ValueError(f"an image of {image.dtype} {image.shape}, expected {self._shape}")
            self._images.write(image.tobytes())
            self._labels.write(np.int32(label).tobytes())
            self._kept += 1
        if self.seen % _SAVE_EVERY == 0:
            self._note()

    def _note(self) -> None:
        for file in (self._images, self._labels):
            file.flush()
            os.fsync(file.fileno())
        _write_json(self._progress, {"origin": self._origin, "seen": self.seen, "kept": self._kept})

    def finish(self, class_names: Sequence[str]) -> int:
        """Completes the split, and returns how many images it has."""
        if not self._kept:
            raise ValueError("there was no image that can be used")
        self._note()
        self._images.close()
        self._labels.close()
        size, _, channels = self._shape
        info = {
            "format_version": FORMAT_VERSION,
            "count": self._kept,
            "image_size": size,
            "channels": channels,
            "class_names": list(class_names),
            "origin": self._origin,
        }
        _write_json(self._folder / "info.json", info)
        self._progress.unlink()
        return self._kept


def _write_json(path: pathlib.Path, value: Any) -> None:
    scratch = path.with_name(path.name + ".tmp")
    scratch.write_text(json.dumps(value) + "\n", encoding="utf-8")
    os.replace(scratch, path)
