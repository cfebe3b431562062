"""Several real processes as one run."""

import json
import pathlib
import shutil
import signal

import numpy as np
import pytest

from iddpm_jax.files.atomic import write_json
from tests import tiny
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
    endless = ("--config.train.num_steps=1000000", "--config.train.sample_every=0")
    processes = start_together(
        train_command(workdir, *_FLAGS, *endless, *flags), 2, 4, workdir.with_name("logs")
    )
    log = workdir.with_name("logs") / "0.log"
    processes[0].wait_for("\nstep ", log)
    return processes, log


def test_a_signal_to_one_process_stops_all_of_them_at_the_same_step(tmp_path):
    processes, log = _training(tmp_path / "run")
    processes[1].send_signal(signal.SIGTERM)
    assert [process.wait() for process in processes] == [0, 0]
    step = log.read_text().split("stopped and saved after step ")[1].split(";")[0]
    newest = max(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert newest == int(step.replace(",", ""))


@pytest.mark.parametrize(
    ("fault", "timeout", "said"),
    [
        (signal.SIGKILL, 6000, "process 0 ends: process 1 ("),
        (signal.SIGSTOP, 100, "no sign of life for 10 s from process 1 ("),
    ],
)
def test_a_process_that_is_gone_or_frozen_ends_the_other_which_names_it(
    tmp_path, fault, timeout, said
):
    processes, log = _training(tmp_path / "run", f"--peer_timeout={timeout}")
    processes[1].send_signal(fault)
    code = processes[0].wait()
    processes[1].kill()
    processes[1].wait()
    assert code == 1, log.read_text()[-2000:]
    assert said in log.read_text()
    assert f"pid {processes[1].pid}" in log.read_text()


def _ends_of(processes, logs: pathlib.Path) -> list[str]:
    """What each of several processes printed last, all of which ended with status 1."""
    codes = [process.wait() for process in processes]
    said = [(logs / f"{number}.log").read_text() for number in range(len(processes))]
    assert codes == [1] * len(processes), said
    return [text.splitlines()[-1] for text in said]


def test_processes_that_differ_in_the_configuration_say_so_before_anything_is_built(tmp_path):
    command = train_command(tmp_path / "run", "--config.data.num_workers=1")
    own = ["--config.train.lr=0.5", "--config.data.num_workers=3"]
    started = start_together(command, 2, 1, tmp_path / "logs", own)
    said = _ends_of(started, tmp_path / "logs")
    for number, line in enumerate(said):
        assert line.startswith(f"error: process {number}: the processes differ in their flags")
        assert "train.lr is 0.001 on process 0 (" in line
        assert ") and 0.5 on process 1 (" in line
        assert "num_workers" not in line
    assert not (tmp_path / "run").exists()


def test_processes_with_other_work_directories_say_so(tmp_path):
    command = train_command(tmp_path / "run")
    own = [f"--workdir={tmp_path / 'other'}"]
    started = start_together(command, 2, 1, tmp_path / "logs", own)
    for line in _ends_of(started, tmp_path / "logs"):
        assert f"all processes have to share one directory, but {own[0][10:]}" in line


def test_processes_that_draw_with_other_flags_say_so_before_a_model_is_read(tmp_path):
    write_json(tmp_path / "config.json", tiny.config().to_dict())
    command = ["-m", "iddpm_jax.sample", f"--workdir={tmp_path}"]
    started = start_together(command, 2, 1, tmp_path / "logs", ["--seed=1"])
    for line in _ends_of(started, tmp_path / "logs"):
        assert "--seed is 0 on process 0 (" in line


_HANGING = """
import time, jax
from iddpm_jax import train
from iddpm_jax.config import build_training
from iddpm_jax.distributed import watchdog

class Hangs:
    def __init__(self, batches):
        self.batches, self.count = batches, 0
    def __next__(self):
        self.count += 1
        if self.count == 5:
            watchdog._watchdog.update(timeout=10)  # Compilation and the first steps had longer.
        if self.count == 5 and jax.process_index() == 1:
            time.sleep(1e6)
        return next(self.batches)
    def __getattr__(self, name):
        return getattr(self.batches, name)

make_batches = build_training.make_batches
build_training.make_batches = lambda *args, **kwargs: Hangs(make_batches(*args, **kwargs))
train.run()
"""


def test_a_process_that_hangs_ends_all_of_them_and_is_named(tmp_path):
    command = train_command(tmp_path / "run", "--config.train.num_steps=1000000")
    flags = [*command[1:], *_FLAGS, "--config.train.sample_every=0"]
    logs = tmp_path / "logs"
    processes = start_together(["-c", _HANGING, *flags], 2, 4, logs)
    codes = [process.wait() for process in processes]
    output = (logs / "0.log").read_text()
    # Which of the two sees it first is open; JAX ends those whose coordinator is gone.
    assert all(codes), output[-2000:]
    said = output + (logs / "1.log").read_text()
    assert "no step for 10 s: process 1 (" in said, output[-2000:]
    assert "the others wait for it" in said or "process 1 ends" in said
