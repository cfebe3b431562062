"""Packed images: one file of raw pixels, mapped into memory. The fastest source.

    DIR/SPLIT/info.json    count, image_size, channels, class_names
    DIR/SPLIT/images.bin   uint8 [N, H, W, C]
    DIR/SPLIT/labels.bin   int32 [N]

Axis letters: N images, B batch, H W C image.
"""

import fcntl
import json
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from iddpm_jax.data.options import DataOptions
from iddpm_jax.data.sources import InMemorySource, fingerprint_of
from iddpm_jax.data.splits import parse_split, slice_of
from iddpm_jax.errors import UsageError

FORMAT_VERSION = 1
_SAVE_EVERY = 1000


def packed_source(options: DataOptions) -> InMemorySource:
    """Opens a packed split; its pixels are read from disk when they are asked for.

    Raises:
      UsageError: there is no such split, or its files do not fit together.
    """
    base, start, stop = parse_split(options.split)
    folder = pathlib.Path(options.dir) / base
    try:
        info = json.loads((folder / "info.json").read_text(encoding="utf-8"))
        shape = (info["count"], info["image_size"], info["image_size"], info["channels"])
        version, class_names = info["format_version"], tuple(info["class_names"])
        if version != FORMAT_VERSION:
            raise UsageError(f"it has format version {version}, this program reads version 1")
        images = np.memmap(folder / "images.bin", np.uint8, "r", shape=shape)
        labels = np.fromfile(folder / "labels.bin", np.int32)
        if (folder / "images.bin").stat().st_size != images.size or len(labels) != len(images):
            raise UsageError("its files do not have as many images as info.json says")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"data.dir={options.dir!r} has no packed split {base!r} that can be read ({error}); "
            "python -m iddpm_jax.prepare_data --help says how to make one"
        ) from error
    part = slice_of(len(images), start, stop)
    return InMemorySource(images[part], labels[part], class_names, _fingerprint(info))


def _fingerprint(info: Mapping[str, Any]) -> str:
    """Of what was packed: the digest of the origin's names is in the record, and its path not."""
    origin = info.get("origin", {})
    record = {**info, "origin": {k: v for k, v in origin.items() if k != "source"}}
    return fingerprint_of([json.dumps(record, sort_keys=True)])


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
            raise UsageError(f"{folder} is complete already")
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = (folder / ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._continue()
        except BlockingIOError:
            self._lock.close()
            raise UsageError(f"{folder} is being written by another process") from None
        except ValueError:
            self._lock.close()
            raise

    def _continue(self) -> None:
        """Goes back to the last note of progress; what was written since is written again."""
        self.seen = self._kept = 0
        if self._progress.exists():
            before = self._read_progress()
            if before["origin"] != self._origin:
                raise UsageError(
                    f"{self._folder} was begun from {before['origin']}, not from {self._origin}; "
                    "choose another --out"
                )
            self.seen, self._kept = before["seen"], before["kept"]
        sizes = {"images.bin": self._kept * int(np.prod(self._shape)), "labels.bin": self._kept * 4}
        for name, size in sizes.items():
            path = self._folder / name
            if size > (path.stat().st_size if path.exists() else 0):
                raise UsageError(
                    f"{path} is shorter than what was noted; delete {self._folder} and pack anew"
                )
        self._images, self._labels = (self._opened(name, size) for name, size in sizes.items())

    def _read_progress(self) -> dict[str, Any]:
        try:
            before = json.loads(self._progress.read_text(encoding="utf-8"))
            return {"origin": before["origin"], **{k: int(before[k]) for k in ("seen", "kept")}}
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{self._progress} cannot be read; delete {self._folder} and pack anew"
            ) from error

    def _opened(self, name: str, size: int):
        file = (self._folder / name).open("ab")
        file.truncate(size)
        return file

    def add(self, image: np.ndarray | None, label: int) -> None:
        """Adds the next image of the origin; None for a bad one."""
        self.seen += 1
        if image is not None:
            if image.shape != self._shape or image.dtype != np.uint8:
                raise UsageError(f"an image of {image.dtype} {image.shape}, expected {self._shape}")
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
            for file in (self._images, self._labels, self._lock):
                file.close()
            shutil.rmtree(self._folder)
            raise UsageError("there was no image that can be used")
        self._note()
        self._images.close()
        self._labels.close()
        size, _, channels = self._shape
        if (self._folder / "images.bin").stat().st_size != self._kept * int(np.prod(self._shape)):
            raise UsageError(f"{self._folder} was written by somebody else too; delete it")
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
        (self._folder / ".lock").unlink()
        self._lock.close()
        return self._kept


def _write_json(path: pathlib.Path, value: Any) -> None:
    scratch = path.with_name(path.name + ".tmp")
    scratch.write_text(json.dumps(value) + "\n", encoding="utf-8")
    os.replace(scratch, path)
