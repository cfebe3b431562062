"""Running the project's commands in processes of their own."""

import os
import pathlib
import subprocess
import sys

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


def environment() -> dict[str, str]:
    """One CPU device, and the tests' compilation cache."""
    cache = {"JAX_COMPILATION_CACHE_DIR": str(CACHE)}
    return {**os.environ, **cache, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}


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
