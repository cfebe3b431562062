"""How a command ends when there are other processes."""

import os
import sys
import threading
from typing import NoReturn

from iddpm_jax.distributed import run

# Set when this process is about to end, and will say why: that others are gone by then is no news.
about_to_end = threading.Event()
_ending = threading.Lock()  # Taken once, by whoever says why this process ends.


def fail(message: object) -> NoReturn:
    """Ends this process with an error in one line.

    A process of several does not wait for the others, which may never come.
    """
    if run.count() == 1:
        sys.exit(f"error: {message}")
    _end(f"process {run.process()}: {message}")


def end_now(me: int, complaint: str) -> NoReturn:
    """Ends process `me`, from any of its threads, because of what others did."""
    _end(f"process {me} ends: {complaint}. The same command continues")


def print_once(line: str) -> None:
    """Prints a line, once for all processes."""
    if run.process() == 0:
        print(line, flush=True)


def _end(line: str) -> NoReturn:
    _ending.acquire()
    print(f"error: {line}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(1)
