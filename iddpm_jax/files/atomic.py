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
    """A new file, which takes the place of `path` in one atomic move when it is left.

    Until then it lies beside `path` under a name that nobody else has, and which no link can lead
    elsewhere. Where it is left with an error it is removed, and what was at `path` stays.
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
    """Removes what a kill within `replacing` left in a directory that nobody else writes."""
    for path in directory.glob(".*.tmp"):
        if _SCRATCH.fullmatch(path.name):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def refusing_disk_errors(path: pathlib.Path) -> Iterator[None]:
    """Around what writes `path` and nothing else: a full disk is no bug of ours.

    Raises:
      UsageError: it cannot be written, with the system's reason.
    """
    try:
        yield
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}") from error


def write_atomically(path: pathlib.Path, data: bytes) -> None:
    """Writes a file in one atomic move, as `replacing` does."""
    with replacing(path) as file:
        file.write(data)


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes a JSON file in one atomic move."""
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())
