"""Few real processes, which do nothing but wait for each other."""

import os
import signal

import pytest

from iddpm_jax.distributed.launch import _heartbeat
from iddpm_jax.distributed.watchdog import SILENCE
from tests.commands import start_together

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
    arguments = ["-c", _WAITING, str(tmp_path / "run"), "--peer_timeout=100"]
    processes = start_together(arguments, 2, 1, tmp_path / "logs")
    logs = [tmp_path / "logs" / f"{number}.log" for number in range(2)]
    for process, log in zip(processes, logs, strict=True):
        process.wait_for("together", log)
    yield processes, logs
    for process in processes:
        process.kill()
        process.wait()


def _said(log) -> list[str]:
    return log.read_text().split("together\n")[1].splitlines()


def test_join_run_ends_the_others_when_one_is_gone_and_names_it(waiting):
    processes, logs = waiting
    processes[1].kill()
    assert processes[0].wait() == 1
    host, pid = os.uname().nodename, processes[1].pid
    assert _said(logs[0]) == [
        f"error: process 0 ends: process 1 ({host}, pid {pid}; starting) is gone; if it ended "
        "with an error, it says why. The same command continues"
    ]


def test_join_run_leaves_it_to_jax_to_end_the_others_when_process_0_is_gone(waiting):
    processes, logs = waiting
    processes[0].kill()
    assert processes[1].wait() == -signal.SIGABRT
    assert "the leader task was preempted/died" in logs[1].read_text()


def test_join_run_ends_the_others_when_process_0_is_frozen_and_names_it(waiting):
    processes, logs = waiting
    processes[0].send_signal(signal.SIGSTOP)
    assert processes[1].wait() == 1
    (line,) = _said(logs[1])
    assert "no sign of life for 10 s from process 0 (" in line


def test_heartbeat_is_later_than_the_watchdog():
    for timeout in (10.0, 600.0, 60000.0):
        assert _heartbeat(timeout) > 1.5 * SILENCE * timeout  # It looks six times in that.
    assert _heartbeat(0) > 10**6
