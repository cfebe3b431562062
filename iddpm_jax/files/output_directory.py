"""The directory that a command writes: its lock, its record, its default name."""

import contextlib
import hashlib
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from iddpm_jax import distributed
from iddpm_jax.files.atomic import remove_scratch
from iddpm_jax.files.lock import LOCK_FILE, lock
from iddpm_jax.files.settings_record import (
    check_settings,
    differing_settings,
    read_settings,
    record_settings,
)
from iddpm_jax.files.shards import Shards
from iddpm_jax.files.untrusted import safe_file_name


@contextlib.contextmanager
def lock_and_record(
    directory: pathlib.Path,
    settings: Mapping[str, Any],
    record: str = "sampling.json",
    advice: str = "choose another --out",
) -> Iterator[None]:
    """Locks a directory, made if need be, and records what its results depend on.

    While entered, no other program writes it. All hosts of one run enter together; the first one
    holds the lock for them. What a kill left half written is removed.

    Args:
      settings: all that the results depend on, and nothing that changes only speed or place.
      record: the file in it that keeps the settings.
      advice: what to do where it holds something else, for messages.

    Raises:
      UsageError: it holds other results or files, cannot be written, or another program is
        writing it.
    """
    with contextlib.ExitStack() as held:
        distributed.on_first(
            lambda: held.enter_context(_locked(directory, settings, record, advice))
        )
        yield


@contextlib.contextmanager
def _locked(
    directory: pathlib.Path, settings: Mapping[str, Any], record: str, advice: str
) -> Iterator[None]:
    check_settings(directory, settings, record, advice)  # Before anything of ours is in it.
    with lock(directory):
        record_settings(directory, settings, record, advice)  # Another may have come between.
        remove_scratch(directory)
        yield


def remove_shards_of_other_settings(
    directory: pathlib.Path, settings: Mapping[str, Any], record: str, advice: str
) -> None:
    """Removes the shards and the record that work with other settings has left.

    A record with other keys is of another kind of work, and stays, as does everything else.

    Raises:
      UsageError: they are being written; or the record cannot be read.
    """
    if not (directory / record).exists():
        return
    before = read_settings(directory / record, advice)
    if before.keys() != settings.keys() or not differing_settings(before, settings):
        return
    with lock(directory):
        print("starting anew: what was left there is of no use with other settings")
        Shards(directory / "shards", 0).remove()
        (directory / record).unlink()


def remove_shards_and_record(directory: pathlib.Path, record: str) -> None:
    """Removes what `lock_and_record` and `Shards` wrote, and the directory if it is empty then."""
    Shards(directory / "shards", 0).remove()
    for name in (record, LOCK_FILE):
        (directory / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # There is something else in it, or it is a link.
        directory.rmdir()


def digest_of(*arrays: np.ndarray | None) -> str:
    """16 hex digits of the arrays' values, shapes and dtypes; None counts as an empty array."""
    digest = hashlib.sha256()
    for array in arrays:
        value = np.asarray(() if array is None else array)
        digest.update(f"{value.dtype} {value.shape}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()[:16]


def default_directory(
    workdir: str, folder: str, parts: Sequence[object], settings: Mapping[str, Any]
) -> pathlib.Path:
    """Where results go unless it is said: `WORKDIR/FOLDER/` and a name for all they depend on.

    Args:
      parts: what of that a reader wants to see; None and empty ones are left out.
      settings: all of it, of which the name has a digest.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    readable = "_".join(str(part) for part in parts if part not in (None, ""))
    name = f"{safe_file_name(readable.replace(',', '-'))}_{digest}"
    return pathlib.Path(workdir).absolute() / folder / name
