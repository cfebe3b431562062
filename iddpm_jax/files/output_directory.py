"""The directory that a command writes: which results are in it, and that one process writes it."""

import contextlib
import hashlib
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from iddpm_jax import distributed
from iddpm_jax.files.atomic import refusing_disk_errors, remove_scratch
from iddpm_jax.files.shards import (
    Shards,
    check_settings,
    differing_settings,
    read_record,
    record_settings,
)
from iddpm_jax.files.untrusted import safe_file_name
from iddpm_jax.files.workdir import lock
from iddpm_jax.sampling.trained_model import TrainedModel


@contextlib.contextmanager
def own(
    directory: pathlib.Path,
    settings: Mapping[str, Any],
    record: str = "sampling.json",
    mend: str = "choose another --out",
) -> Iterator[None]:
    """While entered, `directory` is that of these results, and no other process writes it.

    All processes of one run enter together; the first one holds the lock for them.

    Args:
      settings: all that the results depend on, and nothing that changes only speed or place.
      record: the file in it that keeps them.
      mend: what to do where it is not ours, for messages.

    Raises:
      UsageError: it holds other results or files, cannot be written, or another process is
        writing it.
    """
    with contextlib.ExitStack() as held:
        distributed.on_first(lambda: held.enter_context(_locked(directory, settings, record, mend)))
        yield


@contextlib.contextmanager
def _locked(
    directory: pathlib.Path, settings: Mapping[str, Any], record: str, mend: str
) -> Iterator[None]:
    check_settings(directory, settings, record, mend)  # Before anything of ours is in it.
    with refusing_disk_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
    with lock(directory):
        record_settings(directory, settings, record, mend)  # Another process may have come between.
        remove_scratch(directory)
        yield


def drop_other(
    directory: pathlib.Path, settings: Mapping[str, Any], record: str, mend: str
) -> None:
    """Makes room for this work where shards of other work of its kind were left.

    They are of its kind if their record has the same keys. Nothing else is removed.

    Raises:
      UsageError: they are being written; or the record cannot be read.
    """
    if not (directory / record).exists():
        return
    before = read_record(directory / record, mend)
    if before.keys() != settings.keys() or not differing_settings(before, settings):
        return
    with lock(directory):
        print("starting anew: what was left there is of no use with other settings")
        Shards(directory / "shards", 0).remove()
        (directory / record).unlink()


def remove_own(directory: pathlib.Path, record: str) -> None:
    """Removes a directory of shards that is owned, file by file: nothing that is not ours."""
    Shards(directory / "shards", 0).remove()
    for name in (record, ".lock"):
        (directory / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # There is something else in it, or it is a link.
        directory.rmdir()


def model_digest(model: TrainedModel) -> str:
    """What tells models apart wherever they lie: of the parameters and the schedule."""
    return digest_of(*jax.device_get(jax.tree.leaves(model.params)), model.betas)


def digest_of(*arrays: np.ndarray | None) -> str:
    """What tells arrays apart, their sizes and kinds included."""
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
