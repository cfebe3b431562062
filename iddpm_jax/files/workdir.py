"""The records of a work directory: `config.json`, which says what its run is, and `labels.json`."""

import json
import os
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from iddpm_jax.errors import UsageError
from iddpm_jax.files.atomic import refusing_disk_errors, write_json
from iddpm_jax.files.lock import absolute, lock_unless_held
from iddpm_jax.files.untrusted import read_json

_ABSENT = object()


def open_workdir(path: str, config: Mapping[str, Any], may_change: Collection[str]) -> pathlib.Path:
    """Creates the work directory, or checks that it belongs to this run, and records the config.

    The directory is locked meanwhile, unless the caller holds its lock already: a run that is under
    way must not lose its record.

    Args:
      path: the directory.
      config: the resolved configuration, nested dicts of plain values.
      may_change: dotted keys in which a run that is continued may differ.

    Raises:
      UsageError: the directory cannot be written, or holds a run with another configuration;
        the message lists the keys that differ with both values.
    """
    workdir = absolute(path)
    with lock_unless_held(workdir):
        _record_config(workdir, as_json(config), may_change)
    return workdir


def _record_config(workdir: pathlib.Path, config: Any, may_change: Collection[str]) -> None:
    file = workdir / "config.json"
    if os.path.lexists(file):
        before = flatten(read_config(workdir))
        lines = differences(before, flatten(config), may_change, ("the directory has", "this run"))
        if lines:
            raise UsageError(
                f"{workdir} holds a run with another configuration:\n  "
                + "\n  ".join(lines)
                + "\ncontinue it with the values it has, or choose another --workdir"
            )
    elif (workdir / "checkpoints").exists():
        raise UsageError(f"{workdir} has checkpoints, but no config.json that says of which run")
    with refusing_disk_errors(workdir):
        write_json(file, config)


def read_config(workdir: pathlib.Path, name: str = "config.json") -> dict[str, Any]:
    """Reads the configuration of a work directory; UsageError if there is none."""
    file = workdir / name
    config = read_json(file, "the configuration")
    if not isinstance(config, dict):
        raise UsageError(f"the configuration {file} cannot be read: it holds no keys")
    return config


def write_labels(workdir: pathlib.Path, class_names: Sequence[str]) -> None:
    """Records the names of the classes, in the order of their labels."""
    write_json(workdir / "labels.json", list(class_names))


def known_labels(workdir: str | os.PathLike[str]) -> tuple[str, ...]:
    """The class names that a work directory has recorded; empty if it has recorded none."""
    file = pathlib.Path(workdir) / "labels.json"
    names = read_json(file, "the class names") if os.path.lexists(file) else []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UsageError(f"the class names {file} cannot be read: it holds no list of names")
    return tuple(names)


def read_labels(workdir: pathlib.Path, num_classes: int) -> tuple[str, ...]:
    """A name for each class; its number where `labels.json` has none for it."""
    names = known_labels(workdir)
    return tuple(names[i] if i < len(names) else str(i) for i in range(num_classes))


def as_json(value: Any) -> Any:
    """A value as it will be read back: tuples become lists."""
    return json.loads(json.dumps(value))


def differences(
    old: Mapping, new: Mapping, may_change: Collection[str], owners: tuple[str, str]
) -> list[str]:
    """One line for each dotted key in which two flat configurations differ.

    Args:
      may_change: keys that are left out.
      owners: whose configurations they are, for the lines: `("the directory has", "this run")`.
    """
    lines = []
    for key in sorted(old.keys() | new.keys()):
        before, now = old.get(key, _ABSENT), new.get(key, _ABSENT)
        if before != now and key not in may_change:
            lines.append(f"{key}: {owners[0]} {_show(before)}, {owners[1]} {_show(now)}")
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
