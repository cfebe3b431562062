"""From text that a person wrote to a path."""

import os
import pathlib
import re

from iddpm_jax.errors import UsageError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def local_path(text: str | os.PathLike[str], what: str) -> pathlib.Path:
    """The path that `text` names, with a leading `~` replaced by the home directory.

    Args:
      text: a path, absolute or relative to the current directory.
      what: the flag, key or argument that it comes from, for the message.

    Raises:
      UsageError: the text is empty, or an address such as gs://bucket/run, which `pathlib` would
        take for a local folder `gs:`.
    """
    text = os.fspath(text)
    if not text.strip() or "\0" in text:
        raise UsageError(f"{what}={text!r} is empty or no path: name a file or directory")
    if match := _SCHEME.match(text):
        raise UsageError(
            f"{what}={text}: files are read and written on local disks only, not at {match[1]}://. "
            "Mount the bucket or server as a folder (gcsfuse, s3fs, rclone mount) and name that"
        )
    try:
        return pathlib.Path(text).expanduser()
    except RuntimeError:  # There is no such user: the text is taken as it is.
        return pathlib.Path(text)


def refuse_unwritable(directory: pathlib.Path) -> None:
    """UsageError unless a directory can be written, or made; nothing is made to find that out."""
    there = directory
    while not os.path.lexists(there):
        there = there.parent
    if not there.is_dir():
        raise UsageError(f"the directory {directory} cannot be written: {there} is no directory")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"the directory {directory} cannot be written: {there} is not writable")
