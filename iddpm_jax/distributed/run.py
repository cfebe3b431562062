"""Which process of how many this is: known before JAX looks for its devices.

`jax.process_index()` would have it look, which waits for the others.
"""

_process = 0
_names: tuple[str, ...] = ("process 0",)


def set_process(process: int, names: tuple[str, ...]) -> None:
    """Notes that this process is number `process` of those with `names`."""
    global _process, _names
    _process, _names = process, names


def process() -> int:
    """This process's number, from 0."""
    return _process


def count() -> int:
    """The number of processes of the run."""
    return len(_names)


def names() -> tuple[str, ...]:
    """What messages call the processes, by number, such as "process 1 (node7, pid 4711)"."""
    return _names
