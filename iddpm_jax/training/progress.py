"""What a person sees while training runs: a bar on a terminal, plain lines elsewhere."""

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterator

from tqdm import tqdm


class Progress:
    """Shows step, loss, rate and the time that is left.

    The clock starts after the first step, which compiles. Rates are of training alone; the
    time that is left includes what `paused` was entered for. One of several processes is
    `quiet`, all but the first.
    """

    def __init__(self, num_steps: int, batch_size: int, quiet: bool = False):
        self._quiet = quiet
        self._num_steps = num_steps
        self._batch_size = batch_size
        self._start: tuple[int, float] | None = None
        self._interval_start: tuple[int, float] | None = None
        self._on_terminal = sys.stderr.isatty() and not quiet
        self._bar: tqdm | None = None
        self._interval = ""  # What the last interval of the log was like.

    def advance(self, step: int) -> None:
        """Called after every step."""
        now = time.monotonic()
        if self._start is None:
            self._start = self._interval_start = (step, now)
            if self._on_terminal:
                self._bar = _bar(step - 1, self._num_steps)
        if self._bar is not None:
            text = f"{step:,}/{self._num_steps:,}{self._interval}"
            if step - self._start[0] >= _FEW:
                text += f" | {_duration(self._seconds_left(self._start, step, now))} left"
            self._bar.set_description_str(text, refresh=False)
            self._bar.update(step - self._bar.n)

    def _seconds_left(self, start: tuple[int, float], step: int, now: float) -> float:
        return (self._num_steps - step) * (now - start[1]) / (step - start[0])

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves what is done inside, such as sampling, out of the rates."""
        before = time.monotonic()
        yield
        if self._interval_start is not None:
            step, start = self._interval_start
            self._interval_start = (step, start + time.monotonic() - before)

    def rates(self, step: int) -> dict[str, float]:
        """Steps and images per second since the last call, and seconds left.

        Empty where no time was measured yet. What the device still has to do must be waited
        for before.
        """
        now = time.monotonic()
        if self._start is None or self._interval_start is None or step == self._interval_start[0]:
            return {}
        seconds = max(now - self._interval_start[1], 1e-9)
        steps_per_second = (step - self._interval_start[0]) / seconds
        self._interval_start = (step, now)
        return {
            "timing/steps_per_second": steps_per_second,
            "timing/images_per_second": steps_per_second * self._batch_size,
            "timing/seconds_left": self._seconds_left(self._start, step, now),
        }

    def report(self, step: int, values: dict[str, float], timing: dict[str, float]) -> None:
        """Shows the averages of an interval of the log."""
        text = " | " + (_loss(values["loss"]) if "loss" in values else "every step was skipped")
        if timing:
            text += f" | {_rate(timing['timing/steps_per_second'])}"
        self._interval = text
        if self._bar is None:
            left = f" | {_duration(timing['timing/seconds_left'])} left" if timing else ""
            self.note(f"step {step:,}/{self._num_steps:,}{text}{left}")

    def note(self, text: str) -> None:
        """Shows a line beside the bar."""
        self._show(text, sys.stdout)

    def warn(self, text: str) -> None:
        """Shows a line where errors go."""
        self._show(f"warning: {text}", sys.stderr)

    def _show(self, text: str, file) -> None:
        if self._bar is not None:
            self._bar.write(text, file=file)
        elif not self._quiet:
            print(text, file=file, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


_FEW = 3  # Steps, after which the time that is left can be guessed.


def _bar(done: int, total: int) -> tqdm:
    # tqdm's own rate and time would be of everything, and change with what was last done.
    bar = tqdm(
        total=total,
        initial=done,
        ncols=_size(sys.stderr)[0],
        bar_format="{percentage:3.0f}% |{bar}| {desc}",
    )
    bar.dynamic_ncols = _size  # tqdm's own says 0 where a terminal does not tell.
    return bar


def _size(file) -> tuple[int, int]:
    """Columns and lines of a terminal."""
    try:
        size = os.get_terminal_size(file.fileno())
    except OSError:
        size = (0, 0)
    return size if all(size) else shutil.get_terminal_size()


def _loss(loss: float) -> str:
    return f"loss {loss:.4f}" if abs(loss) < 1e4 else f"loss {loss:.2e}"


def _rate(steps_per_second: float) -> str:
    if steps_per_second >= 1:
        return f"{steps_per_second:.1f} steps/s"
    return f"{1 / steps_per_second:.1f} s/step"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
