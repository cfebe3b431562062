"""How far the host may be ahead of the devices."""

import collections

import jax


class Pace:
    """Keeps a step or two queued behind the one that the devices are at.

    They never wait for the host. Without a limit it would be 32 steps ahead, so that the last
    step would end long after the signal to stop, and what is shown would not have been done yet.
    """

    _QUEUED = 2

    def __init__(self):
        # The state itself is given away to the next step.
        self._mark = jax.jit(lambda step: step + 0)
        self._marks: collections.deque[jax.Array] = collections.deque()

    def follow(self, step: jax.Array) -> None:
        """Called after a step was dispatched, with the new state's `step`: waits for older ones."""
        self._marks.append(self._mark(step))
        if len(self._marks) > self._QUEUED:
            self._marks.popleft().block_until_ready()
