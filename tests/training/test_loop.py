"""The loop in this process: interruptions at an exact step."""

import dataclasses
import itertools
import os
import signal
import time

import jax
import numpy as np
import pytest

from iddpm_jax import factory
from iddpm_jax.training import loop
from tests import tiny

STEPS = 6


def _run(**train_keys):
    config = tiny.config()
    keys = {"num_steps": STEPS, "log_every": 4, "checkpoint_every": 100, "sample_every": 0}
    config.train.update(keys | train_keys)
    return factory.build_training(config)


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


def _changed(run, **fields):
    return dataclasses.replace(run, **fields)


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
    stopped = loop.train(_changed(run, batches=_Batches(run.batches, 4, interrupt)), tmp_path)
    assert int(stopped.step) == 3
    final = loop.train(_run(), tmp_path)
    jax.tree.map(np.testing.assert_array_equal, final, whole[1])
    metrics = (tmp_path / "metrics.jsonl").read_bytes()
    assert metrics == (whole[0] / "metrics.jsonl").read_bytes()
    assert metrics.count(b"\n") == 2
    # Nothing of ours is left behind.
    assert signal.getsignal(signal.SIGINT) is before


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
        loop.train(_changed(run, batches=_Batches(run.batches, 6, die)), tmp_path)
    # Step 4 was logged and saved, step 5 neither.
    final = loop.train(_run(), tmp_path)
    jax.tree.map(np.testing.assert_array_equal, final, whole[1])
    expected = (whole[0] / "metrics.jsonl").read_bytes()
    assert (tmp_path / "metrics.jsonl").read_bytes() == expected


def test_train_skips_a_bad_batch_and_goes_on(whole, tmp_path):
    def spoil(batch):
        return {**batch, "image": np.full_like(batch["image"], np.nan)}

    run = _run()
    state = loop.train(_changed(run, batches=_Batches(run.batches, 2, spoil)), tmp_path)
    assert (int(state.step), int(state.skipped)) == (STEPS, 1)
    assert b'"skipped_steps": 1' in (tmp_path / "metrics.jsonl").read_bytes()


def test_train_draws_the_average_that_is_named_first(tmp_path):
    drawn = []

    def draw(params):
        drawn.append(params)
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
