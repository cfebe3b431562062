"""Checking that all processes of a run were given the same, before anything is built.

What they were given travels through the key-value store of JAX's coordination service. The public
collectives of `jax.experimental.multihost_utils` compile a program for the devices of all, and
which these are is not known yet, nor that they are alike.
"""

import contextlib
import hashlib
import itertools
import json
import pathlib
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

# As Orbax does; there is no public way to the store.
from jax._src import distributed

from iddpm_jax.distributed import ending, run
from iddpm_jax.distributed.roll_call import PeerError

_PATIENCE_SECONDS = 3600.0  # For the others to come here; who is gone is noticed at once.
_PARTING_SECONDS = 10.0  # For the others to hear why all end.
_APPEARS_SECONDS = 5.0  # For a new file to be seen through a network file system.
_LONGEST = 200  # Characters of a value.
_MOST_KEYS, _MOST_PROCESSES = 5, 4  # In a message.
_calls = itertools.count()


def check_same_everywhere(values: Mapping[str, Any], what: str) -> None:
    """PeerError, in all processes, unless `values` are the same in all of them.

    Args:
      values: what JSON can hold, or anything whose `repr` tells it from others.
      what: what they are, for the message, as in "configuration".
    """
    mine = {key: _text(value) for key, value in values.items()}

    def judge(answers: Sequence[dict[str, Any]]) -> str:
        lines = differences([a["values"] for a in answers], _names(answers))
        more = len(lines) - _MOST_KEYS
        shown = "; ".join(lines[:_MOST_KEYS]) + (f"; and {more} more" if more > 0 else "")
        return f"the processes differ in their {what}: {shown}" if lines else ""

    _agree({"values": mine}, judge)


def check_same_directory(path: pathlib.Path) -> None:
    """PeerError, in all processes, unless `path` is one directory, whatever each calls it.

    Process 0 leaves a file in it for a moment.
    """
    if run.count() == 1:
        return
    signs = path / ".processes"
    token = _from_first(secrets.token_hex(8))
    if run.process() == 0:
        signs.mkdir(parents=True, exist_ok=True)
        (signs / token).touch()
    try:
        seen = _appears(signs / token)
        _agree({"seen": seen, "path": str(path)}, _other_directories)
    finally:
        if run.process() == 0:
            (signs / token).unlink(missing_ok=True)


def differences(values: Sequence[Mapping[str, str]], names: Sequence[str]) -> list[str]:
    """A line for each key in which mappings differ, with the names of those that have each value.

    A key that one of them lacks is "nothing" there.
    """
    lines = []
    for key in sorted(set().union(*values)):
        having: dict[str, list[str]] = {}
        for name, mapping in zip(names, values, strict=True):
            having.setdefault(mapping.get(key, "nothing"), []).append(name)
        if len(having) > 1:
            shown = " and ".join(f"{value} on {_some(who)}" for value, who in having.items())
            lines.append(f"{key} is {shown}")
    return lines


def _other_directories(answers: Sequence[dict[str, Any]]) -> str:
    names = _names(answers)
    others = [f"{a['path']} of {n}" for a, n in zip(answers, names, strict=True) if not a["seen"]]
    if not others:
        return ""
    return (
        f"all processes have to share one directory, but {_some(others)} is not "
        f"{answers[0]['path']} of {names[0]}; give all of them the same --workdir and --out"
    )


def _agree(answer: dict[str, Any], judge: Callable[[list[dict[str, Any]]], str]) -> None:
    """Has process 0 judge the answers of all; PeerError in all of them unless it says nothing."""
    if run.count() == 1:
        return
    client, me, call = distributed.global_state.client, run.process(), f"agree/{next(_calls)}"
    mine = json.dumps({"host": socket.gethostname(), **answer})
    if me:
        client.key_value_set(f"{call}/{me}", mine)
        verdict = _get(f"{call}/verdict", "process 0")
    else:
        others = [_get(f"{call}/{p}", f"process {p}") for p in range(1, run.count())]
        verdict = judge([json.loads(text) for text in (mine, *others)])
        client.key_value_set(f"{call}/verdict", verdict)
    if verdict:
        ending.about_to_end.set()
        # Process 0 keeps the store, and so has to be the last to go.
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            client.wait_at_barrier(call, int(1000 * _PARTING_SECONDS))
        raise PeerError(verdict)


def _from_first(text: str) -> str:
    """The text that process 0 has."""
    key = f"first/{next(_calls)}"
    if run.process():
        return _get(key, "process 0")
    distributed.global_state.client.key_value_set(key, text)
    return text


def _get(key: str, whose: str) -> str:
    client = distributed.global_state.client
    try:
        return client.blocking_key_value_get(key, int(1000 * _PATIENCE_SECONDS))
    except jax.errors.JaxRuntimeError as error:
        text = " ".join(str(error).split())[:200]
        raise PeerError(f"{whose} did not say what it was given: {text}") from error


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


def _names(answers: Sequence[dict[str, Any]]) -> list[str]:
    return [f"process {number} ({answer['host']})" for number, answer in enumerate(answers)]


def _some(names: Sequence[str]) -> str:
    more = len(names) - _MOST_PROCESSES
    return ", ".join(names[:_MOST_PROCESSES]) + (f" and {more} more" if more > 0 else "")
