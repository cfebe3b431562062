"""Stopping between two steps when the system or a person asks for it."""

import os
import pathlib
import signal
import threading
import types
from collections.abc import Callable

_PATIENCE = 1.0  # Seconds that a line may take to be shown.


class StopRequest:
    """While entered, the first SIGTERM or SIGINT sets `requested`; the next one ends the process.

    SIGTERM is what SLURM and preemptible machines send before they take the machine away, SIGINT
    what Ctrl-C sends. The step can then be finished and the state saved. Both are answered at
    once, by a thread: Python runs signal handlers between two instructions of the main thread,
    which may be in a compilation for minutes.

    Args:
      show: shows a line; called in another thread.
      checkpoints: the directory whose subdirectories are complete checkpoints, named by step.

    Attributes:
      requested: whether to stop.
      step: the step at hand, which the loop sets.
    """

    _SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self, show: Callable[[str], None], checkpoints: pathlib.Path):
        self.requested = False
        self.step = 0
        self._show, self._checkpoints = show, checkpoints
        self._answered = threading.Event()
        self._previous: dict[int, Callable | int | None] = {}

    def __enter__(self) -> "StopRequest":
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._thread = threading.Thread(target=self._answer_all, daemon=True)
        self._thread.start()
        # What C writes the number of a signal to, at the moment when it comes.
        self._previous_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in self._SIGNALS:
            self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_fd)
        os.close(self._write)
        self._thread.join()
        os.close(self._read)

    def wait_until_answered(self) -> None:
        """Waits until the answer to a signal of this process has been shown."""
        if self.requested:
            self._answered.wait(2 * _PATIENCE)

    def _on_signal(self, number: int, frame: types.FrameType | None) -> None:
        del number, frame
        self.requested = True

    def _answer_all(self) -> None:
        asked = False
        while numbers := os.read(self._read, 64):
            for number in numbers:
                if number not in self._SIGNALS:
                    continue
                if asked:
                    self._end(signal.Signals(number))
                asked = True
                self._show_soon(self._answer_to_first(signal.Signals(number).name))
                self._answered.set()

    def _end(self, number: signal.Signals) -> None:
        self._show_soon(f"{number.name}: ended at once; {self._cost('is lost')}")
        # Not by an exception: nobody knows what the main thread is doing.
        os._exit(128 + number)

    def _answer_to_first(self, name: str) -> str:
        at_hand = f"step {self.step:,}" if self.step else "the first step"
        return (
            f"{name}: finishing {at_hand}, then saving. A second signal ends at once: "
            f"{self._cost('is lost then')}"
        )

    def _cost(self, is_lost: str) -> str:
        names = [path.name for path in self._checkpoints.glob("*")]
        saved = max((int(name) for name in names if name.isdecimal()), default=None)
        if saved is None:
            return f"everything {is_lost}"
        if saved >= self.step > 0:
            return f"nothing {is_lost}"
        return f"what came after step {saved:,} {is_lost}"

    def _show_soon(self, line: str) -> None:
        """Shows a line, but does not wait long for whoever does not read it."""
        showing = threading.Thread(target=self._show, args=(line,), daemon=True)
        showing.start()
        showing.join(_PATIENCE)
