"""What a person sees while training runs: a bar on a terminal, plain lines elsewhere."""

import contextlib
import sys
import time

from tqdm import tqdm


class Progress:
    """Shows step, loss, rates and the time that is left.

    The clock starts after the first step, which compiles. Rates are of training alone; the
    time that is left includes what `paused` was entered for. One of several processes is
    `quiet`, all but the first.
    """

    def __init__(self, first_step: int, num_steps: int, batch_size: int, quiet: bool = False):
        self._quiet = quiet
        self._num_steps = num_steps
        self._batch_size = batch_size
        self._start: tuple[int, float] | None = None
        self._interval_start: tuple[int, float] | None = None
        self._bar = None
        if sys.stderr.isatty() and not quiet:
            self._bar = tqdm(total=num_steps, initial=first_step, unit="step", dynamic_ncols=True)

    def advance(self, step: int) -> None:
        """Called after every step."""
        if self._start is None:
            self._start = self._interval_start = (step, time.monotonic())
        if self._bar is not None:
            self._bar.update(step - self._bar.n)

    @contextlib.contextmanager
    def paused(self):
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
        seconds_per_step = (now - self._start[1]) / (step - self._start[0])
        self._interval_start = (step, now)
        return {
            "timing/steps_per_second": steps_per_second,
            "timing/images_per_second": steps_per_second * self._batch_size,
            "timing/seconds_left": (self._num_steps - step) * seconds_per_step,
        }

    def report(self, step: int, values: dict[str, float], timing: dict[str, float]) -> None:
        """Shows the averages of an interval of the log."""
        text = f"loss {values['loss']:.4f}" if "loss" in values else "every step was skipped"
        if timing:
            text += f" | {timing['timing/steps_per_second']:.1f} steps/s"
            text += f" | {timing['timing/images_per_second']:,.0f} images/s"
        if self._bar is not None:
            self._bar.set_postfix_str(text)
            return
        left = f" | {_duration(timing['timing/seconds_left'])} left" if timing else ""
        self.note(f"step {step:,}/{self._num_steps:,} | {text}{left}")

    def note(self, text: str) -> None:
        """Shows a line beside the bar."""
        if self._bar is not None:
            self._bar.write(text)
        elif not self._quiet:
            print(text, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
