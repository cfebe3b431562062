"""The real command, in processes of its own."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image

from tests.conftest import CACHE, ROOT

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


def _command(workdir: pathlib.Path, *flags: str) -> list[str]:
    return [
        sys.executable,
        "main.py",
        "--config=configs/digits.py",
        f"--workdir={workdir}",
        *TINY,
        *flags,
    ]


def _environment() -> dict[str, str]:
    cache = {"JAX_COMPILATION_CACHE_DIR": str(CACHE)}
    return {**os.environ, **cache, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}


def _run(workdir: pathlib.Path, *flags: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        _command(workdir, *flags),
        cwd=ROOT,
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )


def _arrays(workdir: pathlib.Path, step: int) -> list[np.ndarray]:
    found = []
    for item in ("params", "ema", "opt", "counters"):
        path = workdir / "checkpoints" / str(step) / item
        with ocp.StandardCheckpointer() as checkpointer:
            found += jax.tree.leaves(checkpointer.restore(path))
    return [np.asarray(leaf) for leaf in found]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    result = _run(workdir, "--config.train.num_steps=6")
    assert result.returncode == 0, result.stderr
    assert "Total: " in result.stdout
    assert "step 6/6 | loss 0" in result.stdout
    return workdir


def test_main_leaves_everything_in_the_work_directory(uninterrupted):
    assert json.loads((uninterrupted / "labels.json").read_text()) == list("0123456789")
    assert json.loads((uninterrupted / "config.json").read_text())["train"]["num_steps"] == 6
    lines = (uninterrupted / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["step"] for row in rows] == [2, 4, 6]
    assert {"loss", "mse", "vb", "grad_norm", "lr", "unweighted/loss"} <= rows[0].keys()
    assert any(key.startswith("mse_q") for key in rows[0])
    assert rows[-1]["samples"] == 6 * 16
    assert list((uninterrupted / "tensorboard").iterdir())
    names = sorted(path.name for path in (uninterrupted / "samples").iterdir())
    assert names == ["step_00000004_ema_0.995.png", "step_00000006_ema_0.995.png"]
    with Image.open(uninterrupted / "samples" / names[0]) as picture:
        assert picture.size[1] == 10 * 34 + 2
    assert sorted(int(p.name) for p in (uninterrupted / "checkpoints").iterdir()) == [2, 4, 6]


def test_main_continues_to_the_bits_of_an_uninterrupted_run(uninterrupted, tmp_path):
    # The first part ends between two lines of the log.
    for steps in (3, 6):
        result = _run(tmp_path, f"--config.train.num_steps={steps}", "--config.data.num_workers=0")
        assert result.returncode == 0, result.stderr
    assert "continuing after step 3" in result.stdout
    for a, b in zip(_arrays(uninterrupted, 6), _arrays(tmp_path, 6), strict=True):
        np.testing.assert_array_equal(a, b)
    done = _run(tmp_path, "--config.train.num_steps=6")
    assert done.returncode == 0
    assert "has all of its 6 steps" in done.stdout


def test_main_stops_between_steps_when_told_to_and_continues(uninterrupted, tmp_path):
    process = subprocess.Popen(
        _command(tmp_path, "--config.train.num_steps=100000"),
        cwd=ROOT,
        env=_environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 240
    for line in process.stdout:
        if line.startswith("step ") or time.monotonic() > deadline:
            break
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "stopped and saved after step" in output
    stopped = int(output.split("saved after step ")[1].split(";")[0].replace(",", ""))
    assert stopped in {int(path.name) for path in (tmp_path / "checkpoints").iterdir()}
    assert len(_arrays(tmp_path, stopped)) == len(_arrays(uninterrupted, 6))


def test_main_refuses_another_configuration(uninterrupted):
    result = _run(uninterrupted, "--config.train.lr=0.5", "--config.train.num_steps=7")
    assert result.returncode == 1
    assert "train.lr: the directory has 0.001, this run 0.5" in result.stderr
    assert "num_steps" not in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.train.nmu_steps=3", "'train.nmu_steps': did you mean train.num_steps"),
        ("--config.train.num_steps=many", "invalid literal for int() with base 10: 'many'"),
        ("--config.model.num_channels=40", "num_channels=40 times channel_mult=1"),
        ("--nonsense=1", "Unknown command line flag 'nonsense'"),
        ("--config=configs/digit.py", "No such file or directory: 'configs/digit.py'"),
        ("more", "'more' is not a flag"),
    ],
)
def test_main_refuses_bad_flags_in_one_line(tmp_path, flag, message):
    result = _run(tmp_path / "run", flag)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()


def test_main_stops_when_nothing_is_finite_any_more(tmp_path):
    flags = ("--config.train.lr=1e30", "--config.train.max_nonfinite_steps=3")
    result = _run(tmp_path, "--config.train.num_steps=50", *flags)
    assert result.returncode == 1
    assert "not finite in the last 3 steps" in result.stderr
    assert "train.max_nonfinite_steps=3" in result.stderr
    saved = {int(path.name) for path in (tmp_path / "checkpoints").iterdir()}
    assert all(np.isfinite(leaf).all() for leaf in _arrays(tmp_path, max(saved)))
