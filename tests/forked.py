"""The life of a forked command: this process becomes a Python that was started with arguments.

multiprocessing's fork server imports this module, and what `PRELOADED` names, once. It must stay as
light as it is: what it imports, every fork of it has imported.
"""

import atexit
import os
import runpy
import sys

_registered: list[tuple] = []  # What was to be called at the end, before multiprocessing forgot it.
_register = atexit.register


def _remember(function, *args, **kwargs):
    _registered.append((function, args, kwargs))
    return _register(function, *args, **kwargs)


atexit.register = _remember

# What takes seconds to import, and has neither asked JAX for a device nor defined a flag.
PRELOADED = [
    "tests.forked",  # First: JAX says at its import what it does at the end.
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "sklearn.datasets",
    "tensorboardX",
    "torch",
    "iddpm_jax.config.build_trained_model",
    "iddpm_jax.config.build_training",
    "iddpm_jax.sampling.sample_run",
    "iddpm_jax.training.loop",
]


def become(
    arguments: list[str], directory: str, environment: dict[str, str], out: str, err: str
) -> None:
    """Does what `python *arguments` does there, with output in the files `out` and `err`."""
    for path, descriptor in ((out, 1), (err, 2)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, descriptor)
        os.close(file)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    # As Python sets it: where the program is, then PYTHONPATH.
    sys.path[:0] = [directory, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    atexit.register = _register
    for function, args, kwargs in _registered:
        atexit.unregister(function)  # Some versions of Python did not forget it.
        atexit.register(function, *args, **kwargs)
    # The end is that of any Python, not that of multiprocessing's children.
    try:
        _run(arguments)
    except Exception:
        sys.excepthook(*sys.exc_info())
        sys.exit(1)
    finally:
        atexit._run_exitfuncs()


def _run(arguments: list[str]) -> None:
    kind, *rest = arguments
    if kind == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(rest[0], {"__name__": "__main__"})
    else:
        sys.argv = arguments
        runpy.run_path(kind, run_name="__main__")
