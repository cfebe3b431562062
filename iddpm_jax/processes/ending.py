"""How a command ends when there are other processes."""

import os
import sys
from typing import NoReturn

import jax
from jax.experimental import multihost_utils


def fail(message: object) -> NoReturn:
    """Ends this process with an error in one line.

    A process of several does not wait for the others, which may never come.
    """
    if jax.process_count() == 1:
        sys.exit(f"error: {message}")
    print(f"error: process {jax.process_index()}: {message}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(1)


def tell(line: str) -> None:
    """Prints a line, once for all processes."""
    if jax.process_index() == 0:
        print(line, flush=True)


def finish() -> None:
    """Waits until all processes have come to their end."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("the end")
