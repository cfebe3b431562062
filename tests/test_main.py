"""The real command, in processes of its own."""

import json
import pathlib
import signal

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image

from tests.commands import Command, run, train, train_command


def _arrays(workdir: pathlib.Path, step: int) -> list[np.ndarray]:
    found = []
    for item in ("params", "ema", "opt", "counters"):
        path = workdir / "checkpoints" / str(step) / item
        with ocp.StandardCheckpointer() as checkpointer:
            found += jax.tree.leaves(checkpointer.restore(path))
    return [np.asarray(leaf) for leaf in found]


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
        flags = (f"--config.train.num_steps={steps}", "--config.data.num_workers=0")
        result = train(tmp_path, *flags, "--config.train.label_dropout=0.1")
        assert result.returncode == 0, result.stderr
    assert "continuing after step 3" in result.stdout
    for a, b in zip(_arrays(uninterrupted, 6), _arrays(tmp_path, 6), strict=True):
        np.testing.assert_array_equal(a, b)
    done = train(tmp_path, *flags, "--config.train.label_dropout=0.1")
    assert done.returncode == 0
    assert "has all of its 6 steps" in done.stdout


def test_main_stops_between_steps_when_told_to_and_continues(uninterrupted, tmp_path):
    log = tmp_path / "log"
    process = Command(train_command(tmp_path, "--config.train.num_steps=100000"), log, log)
    process.wait_for("\nstep ", log)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 0
    output = log.read_text()
    assert "stopped and saved after step" in output
    stopped = int(output.split("saved after step ")[1].split(";")[0].replace(",", ""))
    assert stopped in {int(path.name) for path in (tmp_path / "checkpoints").iterdir()}
    assert len(_arrays(tmp_path, stopped)) == len(_arrays(uninterrupted, 6))


def test_main_refuses_another_configuration(uninterrupted):
    result = train(uninterrupted, "--config.train.lr=0.5", "--config.train.num_steps=7")
    assert result.returncode == 1
    assert "train.label_dropout: the directory has 0.1, this run 0.0" in result.stderr
    assert "train.lr: the directory has 0.001, this run 0.5" in result.stderr
    assert "num_steps" not in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.model.num_channels=40", "num_channels=40 times channel_mult=1"),
        ("--config.model.channel_mult=(1,1.5)", "1.5 is of type float"),
    ],
)
def test_main_refuses_bad_values_in_one_line(tmp_path, flag, message):
    result = train(tmp_path / "run", flag)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()


def test_main_stops_when_nothing_is_finite_any_more(tmp_path):
    flags = ("--config.train.lr=1e29", "--config.train.max_nonfinite_steps=3")
    result = train(tmp_path, "--config.train.num_steps=50", *flags)
    assert result.returncode == 1
    assert "not finite in the last 3 steps" in result.stderr
    assert "train.max_nonfinite_steps=3" in result.stderr
    saved = {int(path.name) for path in (tmp_path / "checkpoints").iterdir()}
    assert all(np.isfinite(leaf).all() for leaf in _arrays(tmp_path, max(saved)))


_SMALL_FILES = """
import resource
from iddpm_jax import train
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
train.run()
"""


def test_main_says_in_a_line_that_a_checkpoint_cannot_be_written(tmp_path):
    """As on a full disk: no file may grow beyond 300 kB."""
    flags = train_command(tmp_path / "run", "--config.train.num_steps=6")[1:]
    result = run(["-c", _SMALL_FILES, *flags])
    assert result.returncode == 1, result.stdout
    # After what the libraries print of their own accord.
    last = result.stderr.splitlines()[-1]
    assert last.startswith(
        f"error: a checkpoint in {tmp_path / 'run' / 'checkpoints'} could not be"
    )
