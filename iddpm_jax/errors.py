"""What the package raises of its own accord."""

import contextlib
import re
from collections.abc import Iterator


class UsageError(ValueError):
    """Something was asked for that cannot be done: a wrong value, a damaged file, a full disk.

    The message is for the person who asked. It names the value, the limit and what to do, and
    commands print it in one line. Every other exception is a bug, and keeps its traceback.
    """


SMALLER_BATCHES = "a smaller --batch_size needs less"


@contextlib.contextmanager
def explain_out_of_memory(what_helps: str) -> Iterator[None]:
    """Turns running out of memory, of a device or of the host, into a UsageError of one line.

    JAX reports what devices do when results are waited for, so everything that computes belongs
    inside. The error's cause is what was raised. It serves as a decorator, too.

    Args:
      what_helps: what the person may change, such as SMALLER_BATCHES.
    """
    import jax  # Here, so that a command can refuse something before jax is imported.

    try:
        yield
    except MemoryError as error:
        raise UsageError(_out_of_memory(str(error), what_helps)) from error
    except jax.errors.JaxRuntimeError as error:
        _, exhausted, reason = str(error).partition("RESOURCE_EXHAUSTED:")
        if not exhausted:
            raise
        raise UsageError(_out_of_memory(reason, what_helps)) from error


def _out_of_memory(reason: str, what_helps: str) -> str:
    reason = " ".join(reason.split())[:_LONGEST_REASON].rstrip(".")
    reason = re.sub(r"\b(\d{6,}) ?(bytes\b|B\b)", lambda n: _readable(int(n[1])), reason)
    return f"out of memory ({reason or 'the system gives no sizes'}): {what_helps}"


_LONGEST_REASON = 200  # Characters. XLA appends tables of what is allocated.


def _readable(size: float) -> str:
    units = ["B", "KiB", "MiB", "GiB"]
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:,.1f} {units[0]}"
