"""What all processes have to know at the same moment."""

import collections
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from iddpm_jax.distributed.mesh import batch_sharding, replicated
from iddpm_jax.distributed.roll_call import PeerError


def on_first(call: Callable[[], object]) -> int:
    """Has the first process call `call`, while the others wait for it.

    Returns:
      What it returned, in all processes, where that was an integer of 32 bits; else 0.

    Raises:
      Whatever `call` raises, in the first process.
      PeerError: in the others, if it raised.
    """
    error, answer = None, 0
    if jax.process_index() == 0:
        try:
            returned = call()
            answer = int(returned) if isinstance(returned, int) else 0
        except Exception as raised:
            error = raised
    if jax.process_count() > 1:
        told = np.asarray([error is not None, answer], np.int32)
        failed, answer = map(int, multihost_utils.broadcast_one_to_all(told))
        if failed and jax.process_index():
            raise PeerError("process 0 has stopped; it says why")
    if error is not None:
        raise error
    return answer


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
    """Tells all processes at the same step that any of them has raised a flag.

    The answer is that of two calls before, so that the devices, which carry the question, need
    not be waited for. A process alone hears its own flag at once.
    """

    _LAG = 2

    def __init__(self, mesh: Mesh):
        self._rows = batch_sharding(mesh)
        self._largest = jax.jit(lambda flags: flags.max(), out_shardings=replicated(mesh))
        self._asked: collections.deque[jax.Array] = collections.deque()

    def ask(self, raised: bool) -> bool:
        """Whether to act on the flag now; every process has to call it at every step."""
        if jax.process_count() == 1:
            return raised
        mine = np.full(jax.local_device_count(), raised, np.int32)
        flags = jax.make_array_from_process_local_data(self._rows, mine)
        self._asked.append(self._largest(flags))
        return len(self._asked) > self._LAG and bool(self._asked.popleft())
