"""The work directory: what a run writes, and what says which run it is."""

import contextlib
import fcntl
import json
import pathlib
import tempfile
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from iddpm_jax.errors import UsageError
from iddpm_jax.evaluation.files import write_json

_ABSENT = object()


class LockedError(UsageError):
    """Another process is writing the work directory."""


def open_workdir(
    path: str,
    config: Mapping[str, Any],
    may_change: Collection[str],
    defaults: Mapping[str, Any] | None = None,
) -> pathlib.Path:
    """Creates the work directory, or checks that it belongs to this run, and records the config.

    Args:
      path: the directory.
      config: the resolved configuration, nested dicts of plain values.
      may_change: dotted keys in which a run that is continued may differ.
      defaults: the default configuration, whose values a directory of an older version has for
        the keys that it lacks.

    Raises:
      UsageError: the directory cannot be written, or holds a run with another configuration;
        the message lists the keys that differ with both values.
    """
    if not path.strip():
        raise UsageError("--workdir is empty: name a directory")
    workdir = pathlib.Path(path).absolute()
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workdir):
            pass
    except OSError as error:
        raise UsageError(f"the work directory {workdir} cannot be written: {error}") from error
    config = json.loads(json.dumps(config))  # Tuples become lists, as they will be read back.
    file = workdir / "config.json"
    if file.exists():
        before = flatten(json.loads(json.dumps(defaults or {}))) | flatten(read_config(workdir))
        differences = _differences(before, flatten(config), may_change)
        if differences:
            raise UsageError(
                f"{workdir} holds a run with another configuration:\n  "
                + "\n  ".join(differences)
                + "\ncontinue it with the values it has, or choose another --workdir"
            )
    elif (workdir / "checkpoints").exists():
        raise UsageError(f"{workdir} has checkpoints, but no config.json that says of which run")
    write_json(file, config)
    return workdir


@contextlib.contextmanager
def lock(workdir: pathlib.Path):
    """Keeps other processes from writing the work directory as long as it is entered.

    The system lets go of the lock when the process ends, however it ends.

    Raises:
      LockedError: another process has it.
    """
    with (workdir / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LockedError(f"{workdir} is being written by another process") from None
        yield


def read_config(workdir: pathlib.Path, name: str = "config.json") -> dict[str, Any]:
    """The configuration that a work directory was made with."""
    file = workdir / name
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise UsageError(f"{file} cannot be read: it holds no configuration")
    return config


def write_labels(workdir: pathlib.Path, class_names: Sequence[str]) -> None:
    """Records the names of the classes, in the order of their labels."""
    write_json(workdir / "labels.json", list(class_names))


def known_labels(path: str) -> tuple[str, ...]:
    """Names of the classes that a work directory has recorded; none where there is none."""
    file = pathlib.Path(path) / "labels.json"
    try:
        names = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UsageError(f"{file} cannot be read: it holds no list of names")
    return tuple(names)


def read_labels(workdir: pathlib.Path, num_classes: int) -> tuple[str, ...]:
    """Names of the classes; their numbers where `labels.json` does not name all of them."""
    names = known_labels(str(workdir))
    return tuple(names[i] if i < len(names) else str(i) for i in range(num_classes))


def _differences(old: Mapping, new: Mapping, may_change: Collection[str]) -> list[str]:
    """One line for each dotted key in which two flat configurations differ."""
    lines = []
    for key in sorted(old.keys() | new.keys()):
        before, now = old.get(key, _ABSENT), new.get(key, _ABSENT)
        if before != now and key not in may_change:
            lines.append(f"{key}: the directory has {_show(before)}, this run {_show(now)}")
    return lines


def _show(value: Any) -> str:
    return "nothing" if value is _ABSENT else repr(value)


def flatten(tree: Mapping, prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
