"""Stopping between two steps when the system or a person asks for it."""

import signal
import types


class StopRequest:
    """While entered, the first SIGTERM or SIGINT sets `requested`; a second one kills.

    What SLURM and preemptible machines send before they take the machine away, and what
    Ctrl-C sends, then let the step finish and the state be saved.
    """

    _SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self):
        self.requested = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        for number in self._SIGNALS:
            self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: types.FrameType | None) -> None:
        del frame
        self.requested = True
        signal.signal(number, signal.SIG_DFL)
