"""One writer of a directory at a time."""

import contextlib
import fcntl
import os
import pathlib
from collections.abc import Iterator

from iddpm_jax.errors import UsageError
from iddpm_jax.files.atomic import refusing_disk_errors
from iddpm_jax.files.untrusted import open_regular

LOCK_FILE = ".lock"

_held: set[pathlib.Path] = set()  # Directories whose lock this program has.


class LockedError(UsageError):
    """Another program is writing the directory."""


@contextlib.contextmanager
def lock(directory: str | os.PathLike[str]) -> Iterator[None]:
    """Keeps other programs from writing a directory, which is made if need be, while entered.

    The system releases the lock when the program ends, however it ends.

    Raises:
      LockedError: another program holds the lock.
      UsageError: the directory cannot be written, or its `.lock` is not a regular file.
    """
    path = absolute(directory)
    with refusing_disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        descriptor = open_regular(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb+"):
        with refusing_disk_errors(path):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LockedError(f"{path} is being written by another process") from None
        _held.add(path)
        try:
            yield
        finally:
            _held.discard(path)


def lock_unless_held(directory: str | os.PathLike[str]) -> contextlib.AbstractContextManager[None]:
    """`lock`, or nothing to enter where this program holds the lock of `directory` already."""
    held = absolute(directory) in _held
    return contextlib.nullcontext() if held else lock(directory)


def absolute(directory: str | os.PathLike[str]) -> pathlib.Path:
    """The absolute path of a directory that is to be written; UsageError if its name is empty."""
    name = os.fspath(directory)
    if not name.strip():
        raise UsageError("--workdir is empty: name a directory")
    return pathlib.Path(name).absolute()
