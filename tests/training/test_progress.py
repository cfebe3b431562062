"""What is shown, on a terminal of 80 columns and elsewhere."""

import fcntl
import os
import struct
import sys
import termios
import time

import pytest

from iddpm_jax.training.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """Seconds, as a list of one number."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def _run(clock, steps, loss=0.0123):
    """A first step of 100 s, which compiles, and others of 0.25 s up to a log line."""
    progress = Progress(500_000, batch_size=128)
    clock[0] += 100
    for step in steps:
        progress.advance(step)
        clock[0] += 0.25
    clock[0] -= 0.25
    progress.report(step, {"loss": loss}, progress.rates(step))
    progress.advance(step)
    progress.close()


def _on_terminal(monkeypatch, columns, run) -> list[str]:
    """The last state of every line that `run` leaves on a terminal."""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with os.fdopen(slave, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        run()
        os.write(slave, b"the end")
        output = b""
        while not output.endswith(b"the end"):
            output += os.read(master, 10_000)
    os.close(master)
    return [line.split("\r")[-1] for line in output.decode().replace("\r\n", "\n").split("\n")][:-1]


def test_progress_says_loss_one_rate_and_the_time_left_without_compiling(clock, capsys):
    _run(clock, range(1, 102))
    assert capsys.readouterr().out == (
        "step 101/500,000 | loss 0.0123 | 4.0 steps/s | 34 h 42 min left\n"
    )


def test_progress_bar_fits_80_columns(clock, monkeypatch):
    for columns in (80, 0):  # A terminal may not tell.
        monkeypatch.setenv("COLUMNS", "80")
        (bar,) = _on_terminal(monkeypatch, columns, lambda: _run(clock, range(499_000, 499_101)))
        assert len(bar) <= 80
        assert bar.startswith("100% |")
        assert bar.endswith("| 499,100/500,000 | loss 0.0123 | 4.0 steps/s | 3 min 45 s left")


def test_progress_of_slow_steps_and_huge_losses_is_readable(clock, capsys):
    progress = Progress(10, batch_size=128)
    progress.advance(1)
    clock[0] += 40
    progress.advance(3)
    progress.report(3, {"loss": 1.9e14}, progress.rates(3))
    progress.report(3, {"lr": 1.0}, {})
    assert capsys.readouterr().out == (
        "step 3/10 | loss 1.90e+14 | 20.0 s/step | 2 min 20 s left\n"
        "step 3/10 | every step was skipped\n"
    )


def test_progress_that_is_quiet_shows_nothing(clock, capsys):
    progress = Progress(10, batch_size=1, quiet=True)
    progress.advance(1)
    progress.note("a")
    progress.warn("b")
    assert capsys.readouterr() == ("", "")
