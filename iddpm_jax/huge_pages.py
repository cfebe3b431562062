"""Huge pages for what programs on CPUs allocate.

XLA gets a train step's temporary memory, gigabytes for large networks, from malloc, and frees it
after the step. glibc gives blocks of that size back to the system, so that every step pages them in
anew; 4 KiB at a time that is a tenth of the step and more (docs/performance.md). Many systems give
pages of 2 MiB to who asks, and glibc 2.35 asks if the environment says so when a program starts.
"""

import contextlib
import importlib.metadata
import importlib.util
import os
import pathlib
import sys

_NAME, _VALUE = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"
_ENABLED = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")


def variables() -> dict[str, str]:
    """Environment variables with which a program should start.

    None where the system has no such pages or gives them unasked, where arrays may live on
    accelerators, and where the variable is set already: whoever tunes malloc is left alone.
    """
    asked_for = _ENABLED.exists() and "[madvise]" in _ENABLED.read_text(encoding="ascii")
    return {_NAME: _VALUE} if asked_for and _NAME not in os.environ and _on_cpus_only() else {}


def restart_with() -> None:
    """Starts this program again, in the same process, if `variables` has any.

    Call it before anything large is imported: that would be imported twice. Where the program was
    not started as `python program.py` (by a debugger, in a notebook) it goes on as it is.
    """
    if not _is_what_was_started():
        return
    with contextlib.suppress(OSError):  # It is only about speed.
        if added := variables():
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **added})


def _is_what_was_started() -> bool:
    """Whether the command line is Python, options in one word each, and a file with arguments."""
    count = len(sys.orig_argv) - len(sys.argv)
    options, program = sys.orig_argv[1:count], sys.orig_argv[count:]
    plain = all(word.startswith("-") and word not in ("-m", "-c") for word in options)
    return bool(sys.executable) and plain and program == sys.argv and os.path.isfile(program[0])


def _on_cpus_only() -> bool:
    """Whether JAX can only find CPUs, as far as can be told without importing it."""
    if platforms := os.environ.get("JAX_PLATFORMS"):
        return platforms == "cpu"
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return not plugins and importlib.util.find_spec("libtpu") is None
