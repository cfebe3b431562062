"""Several real processes as one run."""

import json
import pathlib
import shutil
import signal
import time

import numpy as np
import pytest

from tests.commands import run_together, start_together, train_command

STEPS = 6
_FLAGS = ("--config.train.log_every=1", "--config.train.shard_optimizer=True")


def _train(workdir: pathlib.Path, processes: int, steps: int) -> str:
    """Trains on eight devices, however many processes they belong to."""
    arguments = train_command(workdir, *_FLAGS, f"--config.train.num_steps={steps}")
    logs = workdir.with_name(f"{workdir.name}_logs_{steps}")
    return run_together(arguments, processes, 8 // processes, logs)


def _losses(workdir: pathlib.Path) -> list[float]:
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    return [row["loss"] for row in rows]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The work directory of two processes that trained for half of the steps."""
    workdir = tmp_path_factory.mktemp("processes") / "run"
    assert "step 3/3" in _train(workdir, processes=2, steps=STEPS // 2)
    return workdir


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("processes") / "whole"
    _train(workdir, processes=1, steps=STEPS)
    return workdir


@pytest.mark.parametrize("processes", [1, 4])
def test_training_continues_on_another_number_of_processes(stopped, whole, tmp_path, processes):
    workdir = tmp_path / "run"
    shutil.copytree(stopped, workdir)
    assert "continuing after step 3" in _train(workdir, processes, STEPS)
    np.testing.assert_allclose(_losses(workdir), _losses(whole), rtol=1e-5)


def test_only_the_first_process_prints_and_writes_the_log(stopped):
    second = (stopped.with_name("run_logs_3") / "1.log").read_text()
    assert "step" not in second
    assert len(list((stopped / "tensorboard").iterdir())) == 1
    assert sorted(int(p.name) for p in (stopped / "checkpoints").iterdir()) == [2, 3]
    # Drawn by it alone, so that the second would not hang if that failed.
    assert [p.name for p in (stopped / "samples").iterdir()] == ["step_00000003_ema_0.995.png"]


def test_samples_and_likelihood_are_those_of_one_process(stopped, tmp_path):
    sample = ["-m", "iddpm_jax.sample", f"--workdir={stopped}", "--num_samples=24"]
    sample += ["--batch_size=16", "--respacing=exact5", "--show_steps=2"]
    nll = ["-m", "iddpm_jax.nll", f"--workdir={stopped}", "--num_samples=24", "--batch_size=16"]
    for processes in (1, 2):
        for arguments, name in ((sample, "sample"), (nll, "nll")):
            out = tmp_path / f"{name}_{processes}"
            run_together(
                [*arguments, f"--out={out}"],
                processes,
                8 // processes,
                tmp_path / f"{name}_logs_{processes}",
            )
    one, two = (np.load(tmp_path / f"sample_{n}" / "samples.npz") for n in (1, 2))
    assert one["arr_0"].shape == (24, 8, 8, 1)
    np.testing.assert_array_equal(one["arr_1"], two["arr_1"])
    # The last bit of a float decides how a few values round.
    assert np.abs(one["arr_0"].astype(int) - two["arr_0"]).max() <= 1
    assert (tmp_path / "sample_2" / "steps.png").exists()
    one, two = (json.loads((tmp_path / f"nll_{n}" / "nll.json").read_text()) for n in (1, 2))
    assert one["bits_per_dim"] == pytest.approx(two["bits_per_dim"], rel=1e-6)


def _training(workdir: pathlib.Path, *flags: str):
    """Two processes that train without end, and have begun to; and the first one's output."""
    flags += ("--config.train.num_steps=1000000", "--config.train.sample_every=0")
    processes = start_together(train_command(workdir, *flags), 2, 4, workdir.with_name("logs"))
    log = workdir.with_name("logs") / "0.log"
    deadline = time.monotonic() + 200
    while "\nstep " not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()[-2000:]
        time.sleep(0.1)
    return processes, log


def test_a_signal_to_one_process_stops_all_of_them_at_the_same_step(tmp_path):
    processes, log = _training(tmp_path / "run")
    processes[1].send_signal(signal.SIGTERM)
    assert [process.wait(120) for process in processes] == [0, 0]
    step = log.read_text().split("stopped and saved after step ")[1].split(";")[0]
    newest = max(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert newest == int(step.replace(",", ""))


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_is_gone_or_frozen_ends_the_other_which_names_it(tmp_path, fault):
    processes, log = _training(tmp_path / "run", "--peer_timeout=60")
    processes[1].send_signal(fault)
    start = time.monotonic()
    code = processes[0].wait(120)
    seconds = time.monotonic() - start
    processes[1].kill()
    processes[1].wait()
    assert code == 1, log.read_text()[-2000:]
    assert "no sign of life for 6 s from process 1 (" in log.read_text()
    assert f"pid {processes[1].pid}" in log.read_text()
    # The limit, the intervals at which one looks, and much for a machine that is busy.
    assert seconds < 60


_HANGING = """
import time, jax
from iddpm_jax import factory, train

class Hangs:
    def __init__(self, batches):
        self.batches, self.count = batches, 0
    def __next__(self):
        self.count += 1
        if self.count == 5 and jax.process_index() == 1:
            time.sleep(1e6)
        return next(self.batches)
    def __getattr__(self, name):
        return getattr(self.batches, name)

make_batches = factory.make_batches
factory.make_batches = lambda *args, **kwargs: Hangs(make_batches(*args, **kwargs))
train.run()
"""


def test_a_process_that_hangs_ends_all_of_them_and_is_named(tmp_path):
    command = train_command(tmp_path / "run", "--config.train.num_steps=1000000")
    flags = [*command[1:], "--config.train.sample_every=0", "--peer_timeout=30"]
    logs = tmp_path / "logs"
    processes = start_together(["-c", _HANGING, *flags], 2, 4, logs)
    codes = [process.wait(200) for process in processes]
    output = (logs / "0.log").read_text()
    # Which of the two sees it first is open; JAX ends those whose coordinator is gone.
    assert all(codes), output[-2000:]
    said = output + (logs / "1.log").read_text()
    assert "no step for 30 s: process 1 (" in said, output[-2000:]
    assert "the others wait for it" in said or "process 1 ends" in said
