"""Files that a stranger may have written: names, texts and records, bounded and never run."""

import json
import os
import pathlib
import re
import stat
import unicodedata
from typing import Any

from iddpm_jax.errors import UsageError

LARGEST_TEXT = 2**24  # Bytes: a thousand times the largest record of ours.

_NAME_BYTES = 80
_DEEPEST = 64  # Levels of lists and objects; ours have five.


def safe_file_name(name: str) -> str:
    """One component of a path that resembles `name`, whatever that holds.

    Letters and digits of any script, `-`, `_` and single dots within stay; all else, such as `/`,
    becomes `_`. The result is never empty, never starts with a dot, and has at most 80 bytes. Two
    names may give the same result; add a number where they must not.
    """
    kept = re.sub(r"[^\w.-]+|\.\.+", "_", unicodedata.normalize("NFC", name)).strip(".")
    # Cut between characters, not within one.
    return kept.encode()[:_NAME_BYTES].decode(errors="ignore").strip(".") or "_"


def read_json(path: pathlib.Path, what: str) -> Any:
    """Reads a JSON file of at most `LARGEST_TEXT` bytes.

    Args:
      what: what it holds, for messages: "the configuration".

    Raises:
      UsageError: it is missing, unreadable, no regular file, too large, no JSON, or nested too
        deeply.
    """
    text = read_text(path, what)
    try:
        value = json.loads(text)
        if not _is_deep(value):
            return value
        reason = "it is nested too deeply"
    except RecursionError:
        reason = "it is nested too deeply"
    except ValueError as error:
        reason = f"it is no JSON: {error}"
    raise UsageError(f"{what} {path} cannot be read: {reason}")


def _is_deep(value: Any) -> bool:
    """Whether lists and objects are nested in more than `_DEEPEST` levels."""
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            item
            for node in level
            if isinstance(node, dict | list)
            for item in (node.values() if isinstance(node, dict) else node)
        ]
    return bool(level)


def read_text(path: pathlib.Path, what: str, largest: int = LARGEST_TEXT) -> str:
    """Reads a UTF-8 file of at most `largest` bytes; UsageError if it is anything else."""
    try:
        with os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file:
            data = file.read(largest + 1)
    except OSError as error:
        raise UsageError(f"{what} {path} cannot be read: {error.strerror or error}") from error
    if len(data) > largest:
        raise UsageError(f"{what} {path} cannot be read: it has more than {largest:,} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{what} {path} cannot be read: it is no text: {error}") from error


def open_regular(path: str | os.PathLike[str], flags: int) -> int:
    """Opens a regular file and nothing else. It does not wait, as for the other end of a pipe.

    Args:
      flags: of `os.open`.

    Returns:
      The descriptor, which an `exec` closes.

    Raises:
      OSError: it cannot be opened, or is a directory, a pipe, a socket or a device.
    """
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "it is not a regular file", str(path))
    return descriptor
