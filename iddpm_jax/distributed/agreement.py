"""What all processes have to know at the same moment."""

import collections
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from iddpm_jax.distributed.ending import PeerError
from iddpm_jax.distributed.mesh import batch_sharding, replicated


def on_first(call: Callable[[], object]) -> int:
    """Has process 0 call `call`, while the others wait for it.

    Returns:
      What it returned, in all processes, where that was an integer of 32 bits; else 0.

    Raises:
      Whatever `call` raises, in process 0.
      PeerError: in the others, if it raised.
    """
    error, result = None, 0
    if jax.process_index() == 0:
        try:
            returned = call()
            result = int(returned) if isinstance(returned, int) else 0
        except Exception as raised:
            error = raised
    if jax.process_count() > 1:
        outcome = np.asarray([error is not None, result], np.int32)
        failed, result = map(int, multihost_utils.broadcast_one_to_all(outcome))
        if failed and jax.process_index():
            raise PeerError("process 0 has stopped; it says why")
    if error is not None:
        raise error
    return result


def any_process(raised: bool) -> bool:
    """Whether any process has raised a flag; all have to ask."""
    if jax.process_count() == 1:
        return raised
    return bool(multihost_utils.process_allgather(np.int32(raised)).any())


def check_same(value: int, what: str) -> None:
    """PeerError unless the processes have the same value."""
    if jax.process_count() == 1:
        return
    values = multihost_utils.process_allgather(np.int32(value)).tolist()
    if len(set(values)) > 1:
        raise PeerError(f"the processes differ in {what}: {values}")


class SharedFlag:
    """Has all processes see, at the same step, that any of them has raised a flag.

    The answer is that of two calls before, so that the devices, which carry the flags, need
    not be waited for. A process alone sees its own flag at once.

    `multihost_utils.reached_preemption_sync_point` does this for SIGTERM alone, and only where
    Python has no handler for it: with one, it was not reached in 150 steps (jax 0.10.2).
    """

    _LAG = 2

    def __init__(self, mesh: Mesh):
        self._split = batch_sharding(mesh)
        self._any = jax.jit(lambda flags: flags.max(), out_shardings=replicated(mesh))
        self._answers: collections.deque[jax.Array] = collections.deque()

    def ask(self, raised: bool) -> bool:
        """Whether to act on the flag now; every process has to call it at every step."""
        if jax.process_count() == 1:
            return raised
        here = np.full(jax.local_device_count(), raised, np.int32)
        flags = jax.make_array_from_process_local_data(self._split, here)
        self._answers.append(self._any(flags))
        return len(self._answers) > self._LAG and bool(self._answers.popleft())
