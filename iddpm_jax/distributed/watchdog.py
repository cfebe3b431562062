"""Ending all processes when one is gone, frozen or hangs, and saying which.

Processes that train together wait for each other at every step, so that one that is gone would
leave the others waiting. Every process publishes its *status* in the key-value store of JAX's
coordination service, which lives in process 0; process 0 judges them, and publishes why all end.

By itself JAX (0.10.2, `heartbeat_timeout_seconds=10`) aborts, after 10 s, with status 134 and 20
lines of stack. They give the number of a process that was killed or stopped, but nobody's where
process 0 was stopped ("Heartbeat: Deadline Exceeded"); one that hangs in Python is never noticed.
docs/scaling.md lists all that was tried. So JAX's heartbeat is set to be later, and speaks only
where process 0 is killed, after 0.3 s. Where each process is when one has made no step for too
long is printed by `faulthandler`.
"""

import atexit
import contextlib
import faulthandler
import json
import pathlib
import socket
import threading
import time
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import jax
from jax._src import distributed  # As in Orbax; there is no public way to the store.

from iddpm_jax.distributed import run
from iddpm_jax.distributed.comparison import check_same_directory
from iddpm_jax.distributed.ending import before_end_process, end_process
from iddpm_jax.distributed.roll_call import is_closed

SILENCE = 0.1  # Longest time without any sign of life, as a share of the timeout of a step.
_INTERVAL_SECONDS = 1.0  # Between two looks, at most.
_GRACE_SECONDS = 2.0  # For a process to end by itself, where all end for the same reason.
_LAST_SECONDS = 5.0  # For the others to be gone before process 0.
_FOREVER = 10**9  # Milliseconds, eleven days.
_UP, _STATUSES, _REASONS = "watchdog/up", "watchdog/statuses/", "watchdog/reasons/"


class Status(NamedTuple):
    """What a process publishes of itself.

    beats: grows while it lives.
    moves: grows with every step and piece of work.
    timeout: seconds that it may stay there; 0: for ever.
    ended: whether it has come to its end, as it should.
    """

    beats: int = 0
    moves: int = 0
    step: int = 0
    doing: str = "starting"
    timeout: float = 0
    ended: bool = False


class Judge:
    """Finds the process that is gone, frozen or hangs.

    Statuses are timed by the judge's own monotonic clock, so no two clocks have to agree.

    Args:
      names: of the processes, by number.
      silence: seconds without a sign of life after which a process is frozen; 0: never.
    """

    def __init__(self, names: tuple[str, ...], silence: float):
        self._names, self._silence = names, silence
        self._statuses: dict[int, Status] = {}
        self._heard: dict[int, float] = {}  # When a process's status last changed,
        self._moved: dict[int, float] = {}  # and when its `moves` or `timeout` did.

    def hear(self, process: int, status: Status, now: float) -> None:
        """Notes the status of a process at the time `now`, in seconds."""
        before = self._statuses.get(process)
        self._statuses[process] = status
        if before != status:
            self._heard[process] = now
        if before is None or (before.moves, before.timeout) != (status.moves, status.timeout):
            self._moved[process] = now

    def reason_to_end(self, now: float, closed: Collection[int] = ()) -> str:
        """Why all have to end, if they have; `closed` are processes whose connection is."""
        running = {p: status for p, status in self._statuses.items() if not status.ended}
        gone = [p for p in closed if p in running or p not in self._statuses]
        if gone:
            return f"{self._list(gone)} is gone; if it ended with an error, it says why"
        silent = [p for p in running if 0 < self._silence < now - self._heard[p]]
        if silent:
            which = self._list(silent)
            return f"no sign of life for {self._silence:.0f} s from {which}: gone or frozen"
        late = [s for p, s in running.items() if 0 < s.timeout < now - self._moved[p]]
        if not late:
            return ""
        fewest = min(status.moves for status in running.values())
        last = [p for p, status in running.items() if status.moves == fewest]
        waiting = "; the others wait for it" if len(last) < len(running) else ""
        return f"no step for {late[0].timeout:.0f} s: {self._list(last)}{waiting}"

    def _list(self, processes: Collection[int]) -> str:
        return ", ".join(map(self._describe, sorted(processes)))

    def _describe(self, process: int) -> str:
        status = self._statuses.get(process, Status())
        where = f"step {status.step}, {status.doing}" if status.step else status.doing
        return f"{self._names[process].removesuffix(')')}; {where})"


class Watchdog:
    """Ends this process with status 1 and a line when another is gone, frozen or hangs.

    Args:
      timeout: seconds that a step may take; a tenth of it, without a sign of life, means that a
        process is frozen. 0: never.
      connections: by number; in process 0 to all others, in each of these to process 0.
    """

    def __init__(self, timeout: float, connections: Mapping[int, socket.socket]):
        self._silence, self._connections = SILENCE * timeout, dict(connections)
        self._interval = min(_INTERVAL_SECONDS, self._silence / 6 or _INTERVAL_SECONDS)
        self._status = Status()
        self._judge = Judge(run.names(), self._silence)
        store = distributed.global_state.client
        assert store is not None, "jax.distributed.initialize comes first"
        self._store = store
        self._left = threading.Event()
        if run.process() == 0:
            self._store.key_value_set(_UP, "")
            before_end_process(self._end_last)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def update(self, **changes: Any) -> None:
        """Changes fields of this process's status."""
        self._status = self._status._replace(moves=self._status.moves + 1, **changes)

    def leave(self) -> None:
        """Says that this process ends as it should."""
        self._left.set()
        self._thread.join()
        self.update(ended=True)
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._publish()

    def _watch(self) -> None:
        while not self._left.wait(self._interval):
            reason = self._find_reason() if run.process() == 0 else self._ask_for_reason()
            # Others end for the same reason, and may be about to say more.
            if reason and not self._left.wait(_GRACE_SECONDS):
                me = run.process()
                end_process(f"error: process {me} ends: {reason}. The same command continues")

    def _publish(self) -> None:
        self._status = self._status._replace(beats=self._status.beats + 1)
        key = f"{_STATUSES}{run.process()}"
        self._store.key_value_set(key, json.dumps(self._status), allow_overwrite=True)

    def _find_reason(self) -> str:
        self._publish()
        closed = self._closed()  # Before the statuses: one that ends says so first.
        now = time.monotonic()
        for key, text in self._store.key_value_dir_get(_STATUSES):
            process = int(key.rpartition("/")[2])
            self._judge.hear(process, Status(*json.loads(text)), now)
        reason = self._judge.reason_to_end(now, closed)
        if reason:
            self._tell_all(reason)
        return reason

    def _ask_for_reason(self) -> str:
        try:
            self._store.blocking_key_value_get(_UP, int(1000 * self._silence) or _FOREVER)
            self._publish()
            reasons = self._store.key_value_dir_get(_REASONS)
        except jax.errors.JaxRuntimeError:
            name = run.names()[0]
            return f"no sign of life for {self._silence:.0f} s from {name}: gone or frozen"
        return reasons[0][1] if reasons else ""

    def _tell_all(self, reason: str) -> None:
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # The first one stands.
            self._store.key_value_set(f"{_REASONS}0", reason)

    def _closed(self) -> list[int]:
        return [process for process, end in self._connections.items() if is_closed(end)]

    def _end_last(self) -> None:
        """Lets the others end first: where process 0 is gone JAX aborts, with a stack trace."""
        self._tell_all(f"{run.names()[0]} ended with an error")
        deadline = time.monotonic() + _LAST_SECONDS
        while len(self._closed()) < len(self._connections) and time.monotonic() < deadline:
            time.sleep(0.05)


_watchdog: Watchdog | None = None  # That of this process, if it is one of several.


def start(timeout: float, connections: Mapping[int, socket.socket]) -> None:
    """Starts the watchdog of this process of several, until the program ends."""
    global _watchdog
    _watchdog = Watchdog(timeout, connections)
    atexit.register(_watchdog.leave)


class Watch:
    """While entered, a process that makes no step for `timeout` seconds ends all of them.

    Every process has to enter it at the same time, which raises PeerError where the directory is
    not the same one for all, and say with `at` how far it is. A process alone is not watched, nor
    is any with `timeout` 0.
    """

    def __init__(self, directory: pathlib.Path, timeout: float):
        self._directory, self._timeout = directory, timeout

    def at(self, step: int, doing: str) -> None:
        """Says how far the main thread is."""
        if _watchdog is not None:
            _watchdog.update(step=step, doing=doing)
            if self._timeout:
                faulthandler.dump_traceback_later(self._timeout)

    def __enter__(self) -> "Watch":
        check_same_directory(self._directory)
        if _watchdog is not None:
            _watchdog.update(timeout=self._timeout)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if _watchdog is not None:
            faulthandler.cancel_dump_traceback_later()
            _watchdog.update(timeout=0)
