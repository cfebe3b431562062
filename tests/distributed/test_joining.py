"""Few real processes, which do nothing but wait for each other."""

import os
import signal
import time

import pytest

from iddpm_jax.distributed.joining import _heartbeat
from tests.commands import start_together

ENOUGH = 300  # Seconds that no test waits for.

_WAITING = """
import pathlib, sys, time
from absl import app
from iddpm_jax import distributed
from iddpm_jax.cli import launch

def main(argv):
    launch.join()
    with distributed.Watch(pathlib.Path(argv[1]), launch.peer_timeout()):
        print("together", flush=True)
        time.sleep(1e6)

app.run(main)
"""


@pytest.fixture
def waiting(tmp_path):
    """Two processes that have found each other, and their logs."""
    arguments = ["-c", _WAITING, str(tmp_path / "run"), "--peer_timeout=60"]
    processes = start_together(arguments, 2, 1, tmp_path / "logs")
    logs = [tmp_path / "logs" / f"{number}.log" for number in range(2)]
    deadline = time.monotonic() + ENOUGH
    while not all("together" in log.read_text() for log in logs):
        assert time.monotonic() < deadline, [log.read_text()[-2000:] for log in logs]
        time.sleep(0.1)
    yield processes, logs
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.parametrize("victim", [0, 1])
def test_join_run_ends_the_others_when_one_is_gone_and_names_it(waiting, victim):
    processes, logs = waiting
    processes[victim].kill()
    other = 1 - victim
    assert processes[other].wait(ENOUGH) == 1
    said = logs[other].read_text().split("together\n")[1].splitlines()
    host, pid = os.uname().nodename, processes[victim].pid
    assert said == [
        f"error: process {other} ends: process {victim} ({host}, pid {pid}) is gone; if it ended "
        "with an error, it says why. The same command continues"
    ]


def test_join_run_lets_the_watch_speak_of_a_process_0_that_is_frozen(waiting):
    processes, logs = waiting
    processes[0].send_signal(signal.SIGSTOP)
    assert processes[1].wait(ENOUGH) == 1
    said = logs[1].read_text().split("together\n")[1].splitlines()
    assert len(said) == 1
    assert "no sign of life for 6 s from process 0 (" in said[0]


def test_heartbeat_is_longer_than_a_watch_is_silent():
    for silence in (1.0, 60.0, 6000.0):
        assert _heartbeat(silence) > 1.5 * silence  # A watch looks six times in that.
    assert _heartbeat(0) > 10**6
