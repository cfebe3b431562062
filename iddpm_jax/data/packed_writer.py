"""Writes packed images, as `packed.py` reads them."""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

from iddpm_jax.data.packed import FORMAT_VERSION
from iddpm_jax.errors import UsageError
from iddpm_jax.files.atomic import write_json
from iddpm_jax.files.lock import LOCK_FILE, lock
from iddpm_jax.files.untrusted import open_regular, read_json

_SAVE_EVERY = 1000
_OWN_FILES = ("images.bin", "labels.bin", "progress.json", LOCK_FILE)


class PackedWriter:
    """Writes a packed split piece by piece; one that was stopped continues.

    `seen` counts the images of the origin that were dealt with, the bad ones included, when the
    writer was opened.

    Raises:
      UsageError: the split is complete, begun from another origin, damaged, being written by
        another process, or cannot be written.
    """

    def __init__(
        self, folder: pathlib.Path, shape: tuple[int, int, int], origin: Mapping[str, Any]
    ):
        self._folder, self._shape = folder, shape
        self._origin = json.loads(json.dumps(dict(origin)))  # As it will be read back.
        self._progress = folder / "progress.json"
        self._open_files = contextlib.ExitStack()
        with contextlib.ExitStack() as on_error, self._writing():
            on_error.callback(self.close)
            self._open_files.enter_context(lock(folder))
            # Under the lock, so that no split is begun anew that was just completed.
            if (folder / "info.json").exists():
                raise UsageError(f"{folder} is complete already")
            self._continue()
            on_error.pop_all()

    def close(self) -> None:
        """Lets go of the files; what was written since the last note is written again."""
        self._open_files.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Says what the system says where it cannot write."""
        try:
            yield
        except OSError as error:
            raise UsageError(
                f"{self._folder} cannot be written: {error.strerror or error}; once that is "
                "mended, the same command continues"
            ) from error

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
        """A file to append to, unbuffered: what cannot be written is known at once."""
        how = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        file = os.fdopen(open_regular(self._folder / name, how), "ab", buffering=0)
        return self._open_files.enter_context(file)

    def add(self, image: np.ndarray | None, label: int) -> None:
        """Adds the next image of the origin; None for a bad one."""
        self.seen += 1
        if image is not None:
            if image.shape != self._shape or image.dtype != np.uint8:
                raise UsageError(f"an image of {image.dtype} {image.shape}, expected {self._shape}")
            with self._writing():
                _write_all(self._images, image.tobytes())
                _write_all(self._labels, np.array(label, "<i4").tobytes())
            self._kept += 1
        if self.seen % _SAVE_EVERY == 0:
            self._note()

    def _note(self) -> None:
        with self._writing():
            for file in (self._images, self._labels):
                os.fsync(file.fileno())
            note = {"origin": self._origin, "seen": self.seen, "kept": self._kept}
            write_json(self._progress, note)

    def finish(self, class_names: Sequence[str]) -> int:
        """Completes the split, and returns how many images it has."""
        if not self._kept:
            self._remove()
            raise UsageError("there was no image that can be used")
        self._note()
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
        with self._writing():
            write_json(self._folder / "info.json", info)
            self._progress.unlink()
            (self._folder / LOCK_FILE).unlink()
        self.close()
        return self._kept

    def _remove(self) -> None:
        """Removes what the writer made, and the folder if nothing else is in it."""
        with self._writing():
            for name in _OWN_FILES:
                (self._folder / name).unlink(missing_ok=True)
            if not any(self._folder.iterdir()):
                self._folder.rmdir()
        self.close()


def _write_all(file: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
