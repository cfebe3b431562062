"""Files that are there whole or not at all."""

import contextlib
import json
import os
import pathlib
import re
import secrets
from collections.abc import Iterator
from typing import Any, BinaryIO

from iddpm_jax.errors import UsageError
from iddpm_jax.files.untrusted import open_regular

_SCRATCH = re.compile(r"\..*\.[0-9a-f]{16}\.tmp", re.DOTALL)  # As `replacing` names them.


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[BinaryIO]:
    """Opens a new file, which replaces `path` in one atomic move on exit.

    Until then it lies beside `path` under a random name, at which no link can wait. After an error
    it is removed, and `path` stays as it was.
    """
    scratch = path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}.tmp")
    descriptor = open_regular(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(descriptor)  # A machine that stops must not leave the name and no data.
        os.replace(scratch, path)
    except BaseException:
        with contextlib.suppress(OSError):
            scratch.unlink()
        raise


def remove_scratch(directory: pathlib.Path) -> None:
    """Removes the files that a kill within `replacing` left in a directory.

    Nobody else may be writing the directory.
    """
    for path in directory.glob(".*.tmp"):
        if _SCRATCH.fullmatch(path.name):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def refusing_disk_errors(path: str | os.PathLike[str], advice: str = "") -> Iterator[None]:
    """Turns errors of the system into refusals, around code that only writes `path`.

    Args:
      advice: what to do then, for the message.

    Raises:
      UsageError: `path` cannot be written, with the system's reason.
    """
    try:
        yield
    except OSError as error:
        reason, then = error.strerror or error, f"; {advice}" if advice else ""
        raise UsageError(f"{path} cannot be written: {reason}{then}") from error


def write_atomically(path: pathlib.Path, data: bytes) -> None:
    """Writes a file in one atomic move, as `replacing` does."""
    with replacing(path) as file:
        file.write(data)


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a JSON file in one atomic move."""
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())
