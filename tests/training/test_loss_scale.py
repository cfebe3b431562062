import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iddpm_jax.training import checkpoints as ck
from iddpm_jax.training import loop, loss_scale
from iddpm_jax.training import metrics as mt
from iddpm_jax.training.step import make_init, make_train_step
from tests import tiny


def _run(dtype="float16", **keys):
    config = tiny.config()
    config.model.dtype = dtype
    config.train.update({"num_steps": 3, "log_every": 1, "sample_every": 0} | keys)
    return tiny.run_of(config)


@functools.cache
def _step_and_state(dtype):
    run = _run(dtype)
    parts = (run.objective, run.model, run.optimizer, tiny.mesh(1))
    return make_train_step(*parts), make_init(*parts)[0]


def _train(dtype, steps):
    step, init = _step_and_state(dtype)
    state = init(jax.random.key(0))
    for number in range(steps):
        state = step(state, tiny.batch(number, 1))
    return state


def test_only_float16_is_scaled():
    assert loss_scale.initial(jnp.float32) is None
    assert loss_scale.initial(jnp.bfloat16) is None
    assert loss_scale.initial(jnp.float16) == 20


def test_scale_halves_on_overflow_and_grows_otherwise():
    scale = jnp.float32(20)
    assert loss_scale.adjusted(scale, jnp.asarray(False)) == 19
    assert loss_scale.adjusted(scale, jnp.asarray(True)) == pytest.approx(20.001)


def test_scaling_does_not_change_the_gradient():
    grads = {"w": jnp.asarray([3.0, -2e-8])}
    scaled = jax.tree.map(lambda g: loss_scale.scaled(g, jnp.float32(12)), grads)
    np.testing.assert_array_equal(scaled["w"], grads["w"] * 4096)
    back = loss_scale.unscaled(scaled, jnp.float32(12))
    np.testing.assert_array_equal(back["w"], grads["w"])


def test_float16_training_learns_like_float32():
    half, full = _train("float16", 30), _train("float32", 30)
    # The first scales overflow, and these steps are skipped.
    assert 0 <= int(half.skipped) < 10
    steps = 30 - int(half.skipped)
    expected = 20 - int(half.skipped) + 1e-3 * steps
    assert float(half.log2_loss_scale) == pytest.approx(expected, abs=1e-4)
    a, b = (mt.compute(state.metrics) for state in (half, full))
    assert a["loss"] == pytest.approx(b["loss"], rel=0.2)
    assert a["log2_loss_scale"] > 10
    assert "log2_loss_scale" not in b


def test_overflow_skips_the_step_and_halves_the_scale():
    # Not from the first state, whose output layer is 0 and lets no gradient through.
    before = _train("float16", 3)
    params, skipped = jax.tree.map(np.asarray, before.params), int(before.skipped)
    step, _ = _step_and_state("float16")
    after = step(before.replace(log2_loss_scale=jnp.float32(60)), tiny.batch(3, 1))
    jax.tree.map(np.testing.assert_array_equal, params, after.params)
    assert (int(after.skipped), float(after.log2_loss_scale)) == (skipped + 1, 59)
    assert int(after.skipped_in_row) == 0


def test_small_gradients_survive_because_they_are_scaled():
    """Cotangents of 1e-9 are 0 in float16, unless the loss is multiplied by 2^20."""

    def gradient(log2_scale):
        def loss(w):
            half = (w.astype(jnp.float16) * jnp.float16(1)).astype(jnp.float32)
            return loss_scale.scaled(1e-9 * half, log2_scale)

        return loss_scale.unscaled(jax.grad(loss)(jnp.float32(1)), log2_scale)

    assert gradient(None) == 0
    assert gradient(jnp.float32(20)) == pytest.approx(1e-9, rel=1e-3)


@pytest.mark.usefixtures("compiled_once")
def test_train_saves_and_restores_the_scale(tmp_path):
    whole = loop.train(_run(num_steps=4), tmp_path / "whole")
    loop.train(_run(num_steps=2), tmp_path / "cut")
    final = loop.train(_run(num_steps=4), tmp_path / "cut")
    assert float(final.log2_loss_scale) == float(whole.log2_loss_scale) != 20
    jax.tree.map(np.testing.assert_array_equal, final, whole)
    assert b'"log2_loss_scale": 20.0' in (tmp_path / "cut" / "metrics.jsonl").read_bytes()


def test_train_stops_when_the_scale_collapses(tmp_path, monkeypatch):
    monkeypatch.setattr(loss_scale, "_INITIAL", 0.5)
    run = _run(num_steps=9, lr=1e29)  # The second step overflows, and every one after it.
    with pytest.raises(loop.NonFiniteError, match=r"loss scale has collapsed to 2\^-0\.") as error:
        loop.train(run, tmp_path)
    assert "bfloat16" in str(error.value)
    saved = [int(path.name) for path in (tmp_path / "checkpoints").iterdir()]
    assert saved


def test_checkpoint_of_float16_without_a_scale_begins_with_the_first_one(tmp_path):
    """As the version before wrote them, which could import and sample in float16 but not train."""
    old = _train("float16", 2)
    metrics = {k: v for k, v in old.metrics.items() if k != "log2_loss_scale"}
    checkpoints = ck.Checkpoints(tmp_path, keep=1, run=tiny.RUN)
    checkpoints.save(old.replace(log2_loss_scale=None, metrics=metrics), {})
    run = _run()
    _, abstract = make_init(run.objective, run.model, run.optimizer, tiny.mesh(1))
    checkpoints.close()
    checkpoints = ck.Checkpoints(tmp_path, keep=1, run=tiny.RUN)
    state, _ = checkpoints.restore_newest(abstract)
    checkpoints.close()
    assert float(state.log2_loss_scale) == 20
    assert jax.tree.structure(state) == jax.tree.structure(abstract)
    jax.tree.map(np.testing.assert_array_equal, state.params, old.params)
