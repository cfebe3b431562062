"""How a process ends when there are others."""

import os
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

from iddpm_jax.distributed import run
from iddpm_jax.errors import UsageError

_ending = threading.Lock()  # Taken once, by whoever says why this process ends.
_let_others_end: list[Callable[[], None]] = []  # What is done between that word and the end.


class PeerError(UsageError):
    """Another process could not do its part."""


def fail(message: object) -> NoReturn:
    """Ends this process with an error in one line.

    A process of several does not wait for the others, which may never come.
    """
    if run.count() == 1:
        sys.exit(f"error: {message}")
    end_process(f"error: process {run.process()}: {message}")


def end_process(line: str) -> NoReturn:
    """Ends this process of several with status 1, from any of its threads, after a line."""
    _ending.acquire()
    print(line, file=sys.stderr, flush=True)
    sys.stdout.flush()
    for call in _let_others_end:
        call()
    os._exit(1)


def before_end_process(let_others_end: Callable[[], None]) -> None:
    """Has something done before this process ends with an error, so that others can."""
    _let_others_end.append(let_others_end)


def print_once(line: str) -> None:
    """Prints a line, once for all processes."""
    if run.process() == 0:
        print(line, flush=True)
