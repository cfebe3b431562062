"""Running the project's commands in processes of their own."""

import atexit
import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Sequence

from tests.conftest import CACHE, ROOT

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
    cache = {"JAX_COMPILATION_CACHE_DIR": str(CACHE)}
    devices_flag = f"--xla_force_host_platform_device_count={devices}"
    return {**os.environ, **cache, "XLA_FLAGS": devices_flag, "JAX_PLATFORMS": "cpu"}


def run(arguments: list[str]) -> subprocess.CompletedProcess:
    """Runs Python with arguments in the project's root, and returns what it printed."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )


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
) -> list[subprocess.Popen]:
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
        with (logs / f"{number}.log").open("w") as log:
            started.append(
                subprocess.Popen(
                    [sys.executable, *arguments, *where, f"--process_id={number}", *own],
                    cwd=ROOT,
                    env=environment(devices),
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
    return started


def run_together(arguments: list[str], processes: int, devices: int, logs: pathlib.Path) -> str:
    """Runs one command as several processes to their end; returns what the first one printed."""
    for process in start_together(arguments, processes, devices, logs):
        process.wait(300)
        assert process.returncode == 0, [log.read_text()[-2000:] for log in logs.iterdir()]
    return (logs / "0.log").read_text()
