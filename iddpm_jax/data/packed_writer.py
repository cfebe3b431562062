"""Writes packed images, as `packed.py` reads them."""

import contextlib
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

from iddpm_jax.data.packed import FORMAT_VERSION
from iddpm_jax.errors import UsageError
from iddpm_jax.files.atomic import refusing_disk_errors, write_json
from iddpm_jax.files.lock import LOCK_FILE, lock
from iddpm_jax.files.untrusted import open_regular, read_json
from iddpm_jax.files.workdir import as_json

_SAVE_EVERY = 1000
_OWN_FILES = ("images.bin", "labels.bin", "progress.json", LOCK_FILE)


class PackedWriter:
    """Writes a packed split image by image; a conversion that was stopped continues.

    Attributes:
      seen: how many images of the origin are done, bad ones included.

    Raises:
      UsageError: the split is complete, begun from another origin, damaged, being written by
        another process, or cannot be written.
    """

    def __init__(
        self, folder: pathlib.Path, shape: tuple[int, int, int], origin: Mapping[str, Any]
    ):
        self._folder, self._shape = folder, shape
        self._origin = as_json(dict(origin))
        self._progress = folder / "progress.json"
        self._open_files = contextlib.ExitStack()
        with contextlib.ExitStack() as on_error:
            on_error.callback(self.close)
            self._open_files.enter_context(lock(folder))
            # Under the lock, so that no split is begun anew that was just completed.
            if (folder / "info.json").exists():
                raise UsageError(f"{folder} is complete already")
            with self._refusing_disk_errors():
                self._resume()
            on_error.pop_all()

    def close(self) -> None:
        """Closes the files and releases the lock. A later writer resumes from `progress.json`."""
        self._open_files.close()

    def _refusing_disk_errors(self) -> contextlib.AbstractContextManager[None]:
        advice = "once that is mended, the same command continues"
        return refusing_disk_errors(self._folder, advice)

    def _resume(self) -> None:
        """Cuts the files back to what `progress.json` says; later images are written again."""
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
        self._images, self._labels = (self._opened(name) for name in sizes)
        for file, size in zip((self._images, self._labels), sizes.values(), strict=True):
            file.truncate(size)

    def _read_progress(self) -> dict[str, Any]:
        before = read_json(self._progress, "the note of progress")
        if (
            not isinstance(before, dict)
            or "origin" not in before
            or any(type(before.get(k)) is not int or before[k] < 0 for k in ("seen", "kept"))
        ):
            raise UsageError(
                f"{self._progress} cannot be read; delete {self._folder} and pack anew"
            )
        return before

    def _opened(self, name: str) -> BinaryIO:
        """A file to append to, unbuffered so that a failing write fails at once."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        file = os.fdopen(open_regular(self._folder / name, flags), "ab", buffering=0)
        return self._open_files.enter_context(file)

    def add(self, image: np.ndarray | None, label: int) -> None:
        """Adds the next image of the origin; None for a bad one."""
        self.seen += 1
        if image is not None:
            if image.shape != self._shape or image.dtype != np.uint8:
                raise UsageError(f"an image of {image.dtype} {image.shape}, expected {self._shape}")
            with self._refusing_disk_errors():
                _write_all(self._images, image.tobytes())
                _write_all(self._labels, np.array(label, "<i4").tobytes())
            self._kept += 1
        if self.seen % _SAVE_EVERY == 0:
            self._save_progress()

    def _save_progress(self) -> None:
        with self._refusing_disk_errors():
            for file in (self._images, self._labels):
                os.fsync(file.fileno())
            progress = {"origin": self._origin, "seen": self.seen, "kept": self._kept}
            write_json(self._progress, progress)

    def finish(self, class_names: Sequence[str]) -> int:
        """Completes the split, and returns its number of images."""
        if not self._kept:
            self._remove()
            raise UsageError("there was no image that can be used")
        self._save_progress()
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
        with self._refusing_disk_errors():
            write_json(self._folder / "info.json", info)
            self._progress.unlink()
            (self._folder / LOCK_FILE).unlink()
        self.close()
        return self._kept

    def _remove(self) -> None:
        """Removes the writer's files, and the folder if it is empty then."""
        with self._refusing_disk_errors():
            for name in _OWN_FILES:
                (self._folder / name).unlink(missing_ok=True)
            if not any(self._folder.iterdir()):
                self._folder.rmdir()
        self.close()


def _write_all(file: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
