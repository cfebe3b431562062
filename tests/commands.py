"""Running the project's commands in processes of their own."""

import atexit
import functools
import multiprocessing
import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence

from tests import compiler
from tests.compiler import ROOT
from tests.forked import PRELOADED, become

ENOUGH = 1800  # Seconds that no command needs, on however busy a machine; they end one that hangs.

# Ten diffusion steps and a network of one resolution.
TINY = [
    "--config.model.channel_mult=(1,)",
    "--config.model.attention_resolutions=()",
    "--config.diffusion.steps=10",
    "--config.train.batch_size=16",
    "--config.train.log_every=2",
    "--config.train.checkpoint_every=2",
    "--config.train.sample_every=4",
    "--config.train.sample_respacing=ddim5",
    "--config.train.num_samples=20",
]


def environment(devices: int = 1) -> dict[str, str]:
    """So many CPU devices, and the tests' compilation cache."""
    return {**os.environ, **compiler.environment(devices)}


class Command:
    """`python *arguments`, which runs; a fork of a process that has imported JAX and ours.

    It differs from a Python of its own in that imports are done: what is about imports, about the
    first second or about how a process is started needs `subprocess`.

    Attributes:
      pid: its process.
      returncode: what it ended with, as `subprocess` has it; None before `wait`.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        out: pathlib.Path,
        err: pathlib.Path,
        devices: int = 1,
        directory: pathlib.Path = ROOT,
    ):
        for file in (out, err):
            file.touch()
        files, words = (str(out), str(err)), [str(argument) for argument in arguments]
        given = (words, str(directory), environment(devices), *files)
        self._process = _fork_server().Process(target=become, args=given)
        self._process.start()
        atexit.register(self.kill)  # Or multiprocessing would wait for it.
        self.pid = self._process.pid
        self.returncode: int | None = None

    def wait(self, timeout: float = ENOUGH) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        self.returncode = self._process.exitcode
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self._process.is_alive():
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait_for(self, text: str, log: pathlib.Path) -> None:
        """Waits until it has printed `text` into the file `log`."""
        deadline = time.monotonic() + ENOUGH
        while text not in (said := log.read_text()):
            assert self._process.is_alive(), said[-2000:]
            assert time.monotonic() < deadline, said[-2000:]
            time.sleep(0.05)


@functools.cache
def _fork_server():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def run(arguments: Sequence[str], devices: int = 1) -> subprocess.CompletedProcess:
    """Runs Python with arguments in the project's root, and returns what it printed."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = (pathlib.Path(folder) / name for name in ("out", "err"))
        command = Command(arguments, out, err, devices)
        try:
            code = command.wait()
        finally:
            command.kill()
        return subprocess.CompletedProcess(arguments, code, out.read_text(), err.read_text())


def train_command(workdir: pathlib.Path, *flags: str) -> list[str]:
    return ["main.py", "--config=configs/digits.py", f"--workdir={workdir}", *TINY, *flags]


def train(workdir: pathlib.Path, *flags: str) -> subprocess.CompletedProcess:
    return run(train_command(workdir, *flags))


def start_together(
    arguments: list[str],
    processes: int,
    devices: int,
    logs: pathlib.Path,
    of_last: Sequence[str] = (),
) -> list[Command]:
    """Starts one command as several processes, which print into files in the folder `logs`.

    `of_last` are flags that only the last one gets.
    """
    held = socket.socket()  # Bound as long as the tests run, so that nobody else gets the port.
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    atexit.register(held.close)
    address = f"127.0.0.1:{held.getsockname()[1]}"
    started = []
    logs.mkdir(parents=True)
    for number in range(processes):
        own = of_last if number == processes - 1 else ()
        where = [f"--coordinator_address={address}", f"--num_processes={processes}"]
        log = logs / f"{number}.log"
        mine = [*arguments, *where, f"--process_id={number}", *own]
        started.append(Command(mine, log, log, devices))
    return started


def run_together(arguments: list[str], processes: int, devices: int, logs: pathlib.Path) -> str:
    """Runs one command as several processes to their end; returns what the first one printed."""
    for process in start_together(arguments, processes, devices, logs):
        process.wait()
        assert process.returncode == 0, [log.read_text()[-2000:] for log in logs.iterdir()]
    return (logs / "0.log").read_text()
