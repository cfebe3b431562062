"""Ending a process when another one is gone or hangs, and saying which.

Processes that train together wait for each other at every step, so that one that is gone would
leave the others waiting. Each of them leaves a sign of life in the work directory, which they
share anyway: a small file with a count that its watching thread raises all the time, and the step
that its main thread has reached. Changes are timed by the reader's own monotonic clock, so no two
clocks have to agree, and none has to go forwards.
"""

import contextlib
import json
import os
import pathlib
import socket
import sys
import threading
import time
from typing import NamedTuple

import jax
from jax.experimental import multihost_utils

from iddpm_jax.distributed.comparison import check_same_directory
from iddpm_jax.distributed.ending import end_now

_SILENCE = 0.1  # Longest time without any sign of life, as a share of the timeout.
_DONE, _FAILED = "done", "failed"


def silence(timeout: float) -> float:
    """Seconds without a sign of life after which a `Watch` of that timeout ends the run."""
    return _SILENCE * timeout


class Sign(NamedTuple):
    """What a process tells the others: who it is, how far it is, and that it is alive."""

    host: str
    pid: int
    place: int  # How often it has moved on; all processes go the same way.
    step: int
    doing: str
    count: int
    ended: str = ""  # How, once it has.


class Ledger:
    """What has been heard from each process, and when.

    Args:
      me: this process's number.
      timeout: seconds that a process may stay at one step.
    """

    def __init__(self, me: int, timeout: float):
        self._me, self._timeout = me, timeout
        self._silence = silence(timeout)
        self._signs: dict[int, Sign] = {}
        self._heard: dict[int, float] = {}  # When a process's sign last changed,
        self._moved: dict[int, float] = {}  # and when the step or work in it did.

    def hear(self, process: int, sign: Sign, now: float) -> None:
        """Notes a sign of life."""
        before = self._signs.get(process)
        self._signs[process] = sign
        if before != sign:
            self._heard[process] = now
        if before is None or before.place != sign.place:
            self._moved[process] = now

    def complaint(self, now: float) -> str | None:
        """What is wrong with the processes, if anything is."""
        mine = self._signs.get(self._me)
        failed = [p for p, sign in self._signs.items() if sign.ended == _FAILED]
        if failed and self._me not in failed:
            return f"{', '.join(map(self._name, failed))} ended with an error"
        running = {process: sign for process, sign in self._signs.items() if not sign.ended}
        silent = [p for p in running if now - self._heard[p] > self._silence]
        if silent:
            names = ", ".join(map(self._name, silent))
            return f"no sign of life for {self._silence:.0f} s from {names}: gone or frozen"
        if mine is None or mine.ended or now - self._moved[self._me] <= self._timeout:
            return None
        slowest = min(sign.place for sign in running.values())
        last = [p for p, sign in running.items() if sign.place == slowest]
        waiting = "; the others wait for it" if len(last) < len(running) else ""
        names = ", ".join(map(self._name, last))
        return f"no step for {self._timeout:.0f} s: {names}{waiting}"

    def others_ended(self) -> bool:
        """Whether all other processes have said that they have come to an end."""
        return all(sign.ended for process, sign in self._signs.items() if process != self._me)

    def _name(self, process: int) -> str:
        sign = self._signs[process]
        return f"process {process} ({sign.host}, pid {sign.pid}; step {sign.step}, {sign.doing})"


class Watch:
    """While entered, ends this process with exit status 1 when another is gone or hangs.

    Every process has to enter it at the same time, which raises PeerError where the directory is
    not the same one for all, and say with `at` how far it is. A process
    alone is not watched, nor is any with `timeout` 0.

    Args:
      directory: one that all processes share.
      timeout: seconds that a process may stay at one step; the signs of life of one that is gone
        are missed after a tenth of it.
    """

    def __init__(self, directory: pathlib.Path, timeout: float):
        self._directory = directory / ".processes"
        self._active = jax.process_count() > 1 and timeout > 0
        self._me = jax.process_index()
        self._ledger = Ledger(self._me, timeout)
        self._interval = silence(timeout) / 6
        self._sign = Sign(socket.gethostname(), os.getpid(), 0, 0, "starting", 0)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def at(self, step: int, doing: str) -> None:
        """Says how far the main thread is."""
        self._sign = self._sign._replace(place=self._sign.place + 1, step=step, doing=doing)

    def __enter__(self) -> "Watch":
        check_same_directory(self._directory.parent)
        if self._active:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._tell()
            # What earlier processes left there has been overwritten when this returns.
            multihost_utils.sync_global_devices("watch")
            self._thread.start()
        return self

    def __exit__(self, error_type: object, error: object, trace: object) -> None:
        if not self._active:
            return
        self._sign = self._sign._replace(ended=_FAILED if error else _DONE)
        if error:
            print(f"process {self._me} was interrupted: {_first_line(error)}", file=sys.stderr)
            self._find_cause()
        self._closed.set()
        self._thread.join()
        self._tell()

    def _find_cause(self) -> None:
        """Gives the thread time to find a process that is gone.

        The connection to such a one breaks first, in whatever was under way.
        """
        deadline = time.monotonic() + 9 * self._interval
        while time.monotonic() < deadline and not self._ledger.others_ended():
            time.sleep(self._interval / 4)

    def _watch(self) -> None:
        while not self._closed.wait(self._interval):
            self._sign = self._sign._replace(count=self._sign.count + 1)
            self._tell()
            complaint = self._listen()
            if complaint is not None:
                self._sign = self._sign._replace(ended=_FAILED)
                self._tell()
                end_now(self._me, complaint)

    def _tell(self) -> None:
        # In place: a reader of a half-written file reads again, and another host's view of a file
        # that is replaced may be an old one.
        with contextlib.suppress(OSError):  # One sign that is missing does not matter.
            self._path(self._me).write_text(json.dumps(self._sign), encoding="utf-8")

    def _listen(self) -> str | None:
        now = time.monotonic()
        for process in range(jax.process_count()):
            try:
                text = self._path(process).read_text(encoding="utf-8")
                self._ledger.hear(process, Sign(*json.loads(text)), now)
            except (OSError, ValueError, TypeError):
                continue  # Half-written; if it stays so, its silence will be noticed.
        return self._ledger.complaint(now)

    def _path(self, process: int) -> pathlib.Path:
        return self._directory / f"{process}.json"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:200]
