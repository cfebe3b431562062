"""A record of the settings that the results in a directory depend on, so that no two mix."""

import pathlib
from collections.abc import Mapping
from typing import Any

from iddpm_jax.errors import UsageError
from iddpm_jax.files.atomic import refusing_disk_errors, write_json
from iddpm_jax.files.lock import LOCK_FILE
from iddpm_jax.files.untrusted import read_json
from iddpm_jax.files.workdir import as_json

# Files of ours that a directory may hold before its settings are recorded.
_MAY_PRECEDE = frozenset({LOCK_FILE, ".processes"})


def check_settings(
    directory: pathlib.Path,
    settings: Mapping[str, Any],
    record: str = "sampling.json",
    advice: str = "choose another --out",
) -> None:
    """UsageError if `directory` holds results of other settings, or files of somebody else."""
    file = directory / record
    if file.exists() or file.is_symlink():
        before = read_settings(file, advice)
        changed = differing_settings(before, settings)
        if changed:
            raise UsageError(
                f"{directory} holds results of another run:\n  "
                + "\n  ".join(changed)
                + f"\n{advice}"
            )
    elif directory.is_dir() and {path.name for path in directory.iterdir()} - _MAY_PRECEDE:
        raise UsageError(f"{directory} holds other files; {advice}")


def record_settings(
    directory: pathlib.Path,
    settings: Mapping[str, Any],
    record: str = "sampling.json",
    advice: str = "choose another --out",
) -> None:
    """Writes the settings into `directory`, which is made, unless it holds something else.

    Args:
      settings: all that the results depend on, and nothing that changes only speed or place.
      record: the name of the file that keeps them.
      advice: what to do where the directory holds something else, for messages.

    Raises:
      UsageError: it holds results of other settings, or files of somebody else, or cannot be
        written.
    """
    check_settings(directory, settings, record, advice)
    with refusing_disk_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
    with refusing_disk_errors(directory / record):
        write_json(directory / record, settings)


def read_settings(file: pathlib.Path, advice: str = "choose another --out") -> dict[str, Any]:
    """The settings in a record; UsageError if there are none."""
    try:
        record = read_json(file, "the record")
    except UsageError as error:
        raise UsageError(f"{error}; {advice}") from error
    if not isinstance(record, dict):
        raise UsageError(f"{file} holds no settings; {advice}")
    return record


def differing_settings(before: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """A line for each setting whose value differs from the recorded one."""
    now = as_json(settings)
    return [
        f"{key}: there {before.get(key)!r}, now {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
