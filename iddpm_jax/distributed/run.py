"""Which process of how many this is: known before JAX looks for its devices.

`jax.process_index()` would have it look, which waits for the others.
"""

_process, _count = 0, 1


def set_process(process: int, count: int) -> None:
    """Notes that this process is number `process` of `count`."""
    global _process, _count
    _process, _count = process, count


def process() -> int:
    """This process's number, from 0."""
    return _process


def count() -> int:
    """The number of processes of the run."""
    return _count
