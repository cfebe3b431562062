"""The lines between process 0 and all others, whose breaking says that one is gone.

The system closes a process's connections however it ends. Process 0 sees that of any other, and
tells the rest which it was; the others see that of process 0. A process that is frozen, or whose
host has lost its power, breaks no line: `watch` finds it.
"""

import selectors
import threading
import time
from collections.abc import Sequence

from iddpm_jax.distributed import ending
from iddpm_jax.distributed.ending import end_now
from iddpm_jax.distributed.roll_call import Line

_GRACE_SECONDS = 2.0  # For this process to end by itself, where all end for the same reason.
_OWN_GRACE_SECONDS = 60.0  # The same, where it is known to be about to.


class Lifeline:
    """Ends this process with status 1 and a line when one at the other end of a line is gone.

    Args:
      me: this process's number.
      lines: in process 0 those to all others, in each of these that to process 0.
    """

    def __init__(self, me: int, lines: Sequence[Line]):
        self._me, self._lines = me, tuple(lines)
        self._left = threading.Event()
        self.broken = threading.Event()  # One is gone, and this process is about to end.
        for line in self._lines:
            line.socket.settimeout(None)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def leave(self) -> None:
        """Says that this process ends as it should, and that others may."""
        self._left.set()
        for line in self._lines:
            line.tell(bye=True)

    def _watch(self) -> None:
        with selectors.DefaultSelector() as ready:
            for line in self._lines:
                ready.register(line.socket, selectors.EVENT_READ, line)
            while ready.get_map():
                for key, _ in ready.select():
                    complaint = _hear(key.data)
                    if complaint is not None:
                        self._end(complaint)
                    if key.data.ended:
                        ready.unregister(key.fileobj)

    def _end(self, complaint: str) -> None:
        if not self._left.is_set():
            self.broken.set()
        time.sleep(_OWN_GRACE_SECONDS if ending.about_to_end.is_set() else _GRACE_SECONDS)
        if self._left.is_set():
            return
        if self._me == 0:
            for line in self._lines:
                line.tell(gone=complaint)
        end_now(self._me, complaint)


def _hear(line: Line) -> str | None:
    """What has happened at the other end of a line, if it is bad."""
    try:
        message = line.hear() or {}
    except EOFError:
        line.ended = True
        return f"{line.member} is gone; if it ended with an error, it says why"
    except OSError:  # The network's fault; the process may well be there.
        line.ended = True
        return None
    line.ended = "bye" in message
    return str(message["gone"])[:300] if "gone" in message else None
