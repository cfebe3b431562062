"""The loop in this process: interruptions at an exact step."""

import dataclasses
import itertools
import os
import re
import shutil
import signal
import time

import jax
import numpy as np
import pytest

from iddpm_jax.errors import UsageError
from iddpm_jax.training import loop
from iddpm_jax.training.checkpoints import Checkpoints
from iddpm_jax.training.divergence import Divergence
from iddpm_jax.training.prefetch import DataError
from iddpm_jax.training.progress import Progress
from tests import tiny

STEPS = 6

pytestmark = pytest.mark.usefixtures("compiled_once")


def _run(**train_keys):
    config = tiny.config()
    keys = {"num_steps": STEPS, "log_every": 4, "checkpoint_every": 100, "sample_every": 0}
    config.train.update(keys | train_keys)
    return tiny.run_of(config)


class _Batches:
    """Batches that do something to the process or to an image at a given step."""

    def __init__(self, batches, at_step, action):
        self._batches, self._at_step, self._action = batches, at_step, action
        self._step = 0

    def __next__(self):
        self._step += 1
        batch = next(self._batches)
        return self._action(batch) if self._step == self._at_step else batch

    def __getattr__(self, name):
        return getattr(self._batches, name)


def _changed(run, batches=None, **fields):
    data = run.data if batches is None else dataclasses.replace(run.data, batches=batches)
    return dataclasses.replace(run, data=data, **fields)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, loop.train(_run(), workdir)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_train_interrupted_between_two_log_lines_ends_in_the_same_bits(whole, tmp_path, number):
    before = signal.getsignal(signal.SIGINT)

    def interrupt(batch):
        os.kill(os.getpid(), number)
        return batch

    run = _run()
    # The fourth batch is fetched ahead, during step 3.
    stopped = loop.train(_changed(run, batches=_Batches(run.data.batches, 4, interrupt)), tmp_path)
    assert int(stopped.step) == 3
    final = loop.train(_run(), tmp_path)
    jax.tree.map(np.testing.assert_array_equal, final, whole[1])
    metrics = (tmp_path / "metrics.jsonl").read_bytes()
    assert metrics == (whole[0] / "metrics.jsonl").read_bytes()
    assert metrics.count(b"\n") == 2
    # Nothing of ours is left behind.
    assert signal.getsignal(signal.SIGINT) is before


def test_train_says_stopped_when_the_checkpoint_is_there_and_draws_nothing(
    tmp_path, monkeypatch, capsys
):
    def interrupt(batch):
        os.kill(os.getpid(), signal.SIGTERM)
        return batch

    note, seen = Progress.note, []

    def note_files(self, text):
        names = {path.name for path in (tmp_path / "checkpoints").glob("*")}
        seen.append((text, names))
        note(self, text)

    monkeypatch.setattr(Progress, "note", note_files)
    run = _run(sample_every=3)
    run = _changed(run, batches=_Batches(run.data.batches, 4, interrupt), draw_samples=_no_samples)
    loop.train(run, tmp_path)
    answer, (last, files) = seen[-2][0], seen[-1]
    assert answer.startswith("SIGTERM: finishing step 3, then saving. A second signal")
    assert last == "stopped and saved after step 3; the same command continues"
    assert files == {"3"}
    assert capsys.readouterr().err == ""


def _no_samples(params):
    raise RuntimeError("no picture\ntoday")


def test_train_goes_on_when_a_grid_cannot_be_drawn(whole, tmp_path, capsys, monkeypatch):
    events = []

    def noted(owner, name):
        call = getattr(owner, name)

        def note_and_call(self, state, *rest):
            events.append((name, int(state.step)))
            return call(self, state, *rest)

        monkeypatch.setattr(owner, name, note_and_call)

    noted(loop._Steps, "_check_finite")
    noted(loop._Steps, "_draw")
    noted(Checkpoints, "save")
    run = _changed(
        _run(sample_every=3, checkpoint_every=3, max_nonfinite_steps=5), draw_samples=_no_samples
    )
    final = loop.train(run, tmp_path)
    for part in ("params", "opt_state", "step"):
        jax.tree.map(np.testing.assert_array_equal, getattr(final, part), getattr(whole[1], part))
    assert capsys.readouterr().err == "".join(
        f"warning: no samples of step {step}: RuntimeError: no picture today\n" for step in (3, 6)
    )
    # It saves before it draws. Looking at the counters waits for the device: not at step 5.
    check, save, draw = "_check_finite", "save", "_draw"
    third, sixth = ([(what, step) for what in (check, save, draw)] for step in (3, 6))
    assert events == [*third, (check, 4), *sixth]


def test_train_lists_the_parameters_when_asked_and_warns_of_a_loss_that_explodes(
    whole, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(Divergence, "_LARGEST_ERROR", 0.0)
    shutil.copytree(whole[0], tmp_path / "run")
    loop.train(_run(num_steps=STEPS + 1), tmp_path / "run", parameter_table=True)
    output = capsys.readouterr()
    assert "1,500 images, 10 classes" in output.out
    assert re.search(r"^UNet: [\d,]+ parameters$", output.out, re.MULTILINE)
    assert "Total: " in output.out
    (line,) = output.err.splitlines()
    assert re.match(r"warning: step 7: the error is .*: training has diverged\. A lower", line)


def test_train_says_what_helps_where_memory_does_not_suffice(tmp_path):
    def fail(batch):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 9663676416 bytes")

    run = _run()
    with pytest.raises(UsageError) as raised:
        loop.train(_changed(run, batches=_Batches(run.data.batches, 1, fail)), tmp_path)
    message = str(raised.value)
    assert message.startswith("out of memory (9.0 GiB): --config.train.microbatch=8 (it is 16), ")
    assert "--config.model.use_checkpoint=True" in message


def test_train_saves_when_the_data_cannot_be_read_any_more(whole, tmp_path):
    def fail(batch):
        raise OSError(5, "Input/output error")

    run = _run()
    said = "Input/output error; the state after step 3 is saved"
    with pytest.raises(DataError, match=said):
        loop.train(_changed(run, batches=_Batches(run.data.batches, 4, fail)), tmp_path)
    final = loop.train(_run(), tmp_path)
    jax.tree.map(np.testing.assert_array_equal, final, whole[1])


def test_train_restores_the_timestep_samplers_history(tmp_path):
    keys = {"schedule_sampler": "loss-second-moment", "checkpoint_every": 3}
    whole = loop.train(_run(**keys), tmp_path / "whole")
    loop.train(_run(**keys, num_steps=3), tmp_path / "cut")
    final = loop.train(_run(**keys), tmp_path / "cut")
    for part in ("params", "opt_state", "sampler_state"):
        jax.tree.map(np.testing.assert_array_equal, getattr(final, part), getattr(whole, part))
    # Every loss of every step is there, as far as the histories go.
    assert 0 < int(whole.sampler_state["counts"].sum()) <= STEPS * tiny.BATCH
    assert np.count_nonzero(whole.sampler_state["history"]) == whole.sampler_state["counts"].sum()


def test_train_repeats_steps_after_the_last_checkpoint_to_the_same_bits(whole, tmp_path):
    class KilledError(Exception):
        pass

    def die(batch):
        raise KilledError

    run = _run(checkpoint_every=2)
    with pytest.raises(KilledError):
        loop.train(_changed(run, batches=_Batches(run.data.batches, 6, die)), tmp_path)
    # Step 4 was logged and saved, step 5 neither.
    final = loop.train(_run(), tmp_path)
    jax.tree.map(np.testing.assert_array_equal, final, whole[1])
    expected = (whole[0] / "metrics.jsonl").read_bytes()
    assert (tmp_path / "metrics.jsonl").read_bytes() == expected


def test_train_skips_a_bad_batch_and_goes_on(whole, tmp_path):
    def spoil(batch):
        return {**batch, "image": np.full_like(batch["image"], np.nan)}

    run = _run()
    state = loop.train(_changed(run, batches=_Batches(run.data.batches, 2, spoil)), tmp_path)
    assert (int(state.step), int(state.skipped)) == (STEPS, 1)
    assert b'"skipped_steps": 1' in (tmp_path / "metrics.jsonl").read_bytes()


def test_train_draws_the_average_that_is_named_first(tmp_path):
    drawn = []

    def draw(params):
        drawn.append(params)
        # What was learned is on disk, whatever drawing does to the process.
        assert (tmp_path / "checkpoints" / str(STEPS)).is_dir()
        return np.zeros((4, 4, 3), np.uint8)

    run = _changed(_run(sample_every=STEPS, ema_rate=(0.9, 0.5)), draw_samples=draw)
    state = loop.train(run, tmp_path)
    assert [p.name for p in (tmp_path / "samples").iterdir()] == ["step_00000006_ema_0.9.png"]
    jax.tree.map(np.testing.assert_array_equal, drawn[0], state.ema["0.9"])


def test_train_without_averages_draws_the_parameters(tmp_path):
    run = _run(sample_every=STEPS, ema_rate=())
    loop.train(_changed(run, draw_samples=lambda params: np.zeros((4, 4, 3), np.uint8)), tmp_path)
    assert [p.name for p in (tmp_path / "samples").iterdir()] == ["step_00000006_ema_none.png"]
    assert int(loop.train(run, tmp_path).step) == STEPS


def test_train_does_not_care_for_a_clock_that_goes_backwards(whole, tmp_path, monkeypatch):
    clock = itertools.count(2e9, -3600)  # An hour back whenever anyone looks.
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    monkeypatch.setattr(time, "time_ns", lambda: int(next(clock)) * 10**9)
    for steps in (2, 4, STEPS):
        run = _run(checkpoint_every=1, num_steps=steps, log_every=1 if steps < STEPS else 4)
        final = loop.train(run, tmp_path)
        # The newest checkpoint seems to be the oldest.
        for age, path in enumerate(sorted((tmp_path / "checkpoints").iterdir())):
            os.utime(path, (1e9 - age * 1e6,) * 2)
    assert next(clock) < 2e9 - 3600 * 10
    for part in ("params", "opt_state", "step"):
        jax.tree.map(np.testing.assert_array_equal, getattr(final, part), getattr(whole[1], part))


def test_train_of_a_finished_run_says_so_in_a_line_and_compiles_nothing(
    whole, tmp_path, capsys, monkeypatch
):
    shutil.copytree(whole[0], tmp_path / "run")
    run = _run()
    monkeypatch.setattr(loop, "make_train_step", None)
    jax.clear_caches()
    with tiny.compilations() as seen:
        loop.train(run, tmp_path / "run")
    assert seen == []
    assert capsys.readouterr().out == (
        f"{tmp_path / 'run'} has all of its 6 steps; raise --config.train.num_steps to train on\n"
    )
