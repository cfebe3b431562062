"""Checking that all processes of a run were given the same."""

import hashlib
import json
import pathlib
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from iddpm_jax.distributed import run
from iddpm_jax.distributed.ending import PeerError

_APPEARS_SECONDS = 5.0  # For a new file to be seen through a network file system.
_LONGEST = 200  # Characters of a value.
_MOST_KEYS, _MOST_PROCESSES = 5, 4  # In a message.


def check_same_everywhere(values: Mapping[str, Any], what: str) -> None:
    """PeerError, in all processes, unless `values` are the same in all of them.

    Args:
      values: what JSON can hold, or anything whose `repr` tells it from others.
      what: what they are, for the message, as in "configuration".
    """
    if jax.process_count() > 1:
        given = [json.loads(text) for text in gather_texts(json.dumps(as_texts(values)))]
        difference = describe_differences(given, run.names(), what)
        if difference:
            raise PeerError(difference)


def check_same_directory(path: pathlib.Path) -> None:
    """PeerError, in all processes, unless `path` is one directory, whatever each calls it.

    Process 0 leaves a file in it for a moment.
    """
    if jax.process_count() == 1:
        return
    file = path / ".processes" / gather_texts(secrets.token_hex(8))[0]
    if jax.process_index() == 0:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    try:
        found = [json.loads(text) for text in gather_texts(json.dumps([_appears(file), str(path)]))]
    finally:
        if jax.process_index() == 0:
            file.unlink(missing_ok=True)
    names = run.names()
    others = [f"{there} of {names[i]}" for i, (seen, there) in enumerate(found) if not seen]
    if others:
        raise PeerError(
            f"all processes have to share one directory, but {_some(others)} is not "
            f"{found[0][1]} of {names[0]}; give all of them the same --workdir and --out"
        )


def describe_differences(
    given: Sequence[Mapping[str, str]], names: Sequence[str], what: str
) -> str:
    """One line about the keys in which mappings differ; nothing if they are the same.

    A key that one of them lacks is "nothing" there. `names` say whose each mapping is.
    """
    lines = []
    for key in sorted(set().union(*given)):
        having: dict[str, list[str]] = {}
        for name, mapping in zip(names, given, strict=True):
            having.setdefault(mapping.get(key, "nothing"), []).append(name)
        if len(having) > 1:
            shown = " and ".join(f"{value} on {_some(who)}" for value, who in having.items())
            lines.append(f"{key} is {shown}")
    more = len(lines) - _MOST_KEYS
    shown = "; ".join(lines[:_MOST_KEYS]) + (f"; and {more} more" if more > 0 else "")
    return f"the processes differ in their {what}: {shown}" if lines else ""


def as_texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Values as short texts, which differ where the values do."""
    return {key: _text(value) for key, value in values.items()}


def gather_texts(text: str) -> list[str]:
    """The texts of all processes, in all of them."""
    data = np.frombuffer(text.encode("utf-8"), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(data.size))
    rows = multihost_utils.process_allgather(np.pad(data, (0, sizes.max() - data.size)))
    return [row[:size].tobytes().decode("utf-8") for row, size in zip(rows, sizes, strict=True)]


def _appears(path: pathlib.Path) -> bool:
    deadline = time.monotonic() + _APPEARS_SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _text(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=repr, ensure_ascii=False)
    if len(text) <= _LONGEST:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{text[:60]}… ({len(text):,} characters, SHA-256 {digest[:12]})"


def _some(names: Sequence[str]) -> str:
    more = len(names) - _MOST_PROCESSES
    return ", ".join(names[:_MOST_PROCESSES]) + (f" and {more} more" if more > 0 else "")
