"""Signals to this process; the one that ends a process, to another."""

import os
import pathlib
import signal
import subprocess
import sys
import threading

from iddpm_jax.distributed.interrupt import StopRequest
from tests.compiler import ROOT

# The main thread is where no signal handler of Python's can run, as in a compilation.
_STUCK = """
import ctypes, functools, pathlib, sys
from iddpm_jax.distributed.interrupt import StopRequest

with StopRequest(functools.partial(print, flush=True), pathlib.Path(sys.argv[1])) as stop:
    stop.step = 1234
    print("ready", flush=True)
    mutex, lock = ctypes.create_string_buffer(64), ctypes.CDLL(None).pthread_mutex_lock
    lock(mutex)
    lock(mutex)
"""


def test_stop_request_is_answered_at_once_and_a_second_signal_says_what_is_lost(tmp_path):
    for name in ("5", "1000", "2000.orbax-checkpoint-tmp-3"):
        (tmp_path / name).mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", _STUCK, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == (
        "SIGINT: finishing step 1,234, then saving. A second signal ends at once: "
        "what came after step 1,000 is lost then\n"
    )
    process.send_signal(signal.SIGTERM)  # Another signal than the first.
    rest, _ = process.communicate()
    assert rest == "SIGTERM: ended at once; what came after step 1,000 is lost\n"
    assert process.returncode == 128 + signal.SIGTERM


def test_stop_request_leaves_handlers_as_they_were(tmp_path):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    threads = threading.active_count()
    said = []
    with StopRequest(said.append, tmp_path / "none") as stop:
        assert not stop.requested
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
        stop.wait_until_answered()
    (line,) = said
    assert "finishing the first step" in line
    assert line.endswith("everything is lost then")
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert signal.set_wakeup_fd(-1) == -1
    assert threading.active_count() == threads


def test_stop_request_ends_although_nobody_reads_what_it_says(tmp_path, monkeypatch):
    codes, ended = [], threading.Event()

    def end(code):
        codes.append(code)
        ended.set()

    monkeypatch.setattr(os, "_exit", end)
    never = threading.Event()
    with StopRequest(lambda line: never.wait(), pathlib.Path(tmp_path)):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        assert ended.wait(120)
    never.set()
    assert codes == [128 + signal.SIGINT]
