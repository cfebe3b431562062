import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iddpm_jax.diffusion import timestep_sampler
from iddpm_jax.distributed.mesh import check_batch_size
from iddpm_jax.training import metrics as mt
from iddpm_jax.training.state import init_state
from iddpm_jax.training.step import StepOptions, make_init, make_train_step
from tests import tiny


def _largest_difference(a, b) -> float:
    differences = jax.tree.map(lambda x, y: np.abs(np.asarray(x) - np.asarray(y)).max(), a, b)
    return max(jax.tree.leaves(differences))


def test_train_step_moves_parameters_and_counts():
    before = tiny.init(1)(jax.random.key(0))
    after = tiny.run_steps(2)
    assert int(after.step) == 2
    assert int(after.skipped) == 0
    assert _largest_difference(before.params, after.params) > 1e-4


def test_train_step_does_not_recompile():
    step = tiny.train_step(1)
    state = tiny.run_steps(1)
    compiled = step._cache_size()
    for i in (1, 2, 3):
        state = step(state, tiny.batch(i, 1))
    assert step._cache_size() == compiled == 1


def test_train_step_gives_old_state_away():
    state = tiny.init(1)(jax.random.key(0))
    tiny.train_step(1)(state, tiny.batch(0, 1))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


@pytest.mark.parametrize(
    "options",
    [{}, {"data_parallel": "pmap"}, {"shard_optimizer": True}],
    ids=["jit", "pmap", "sharded_optimizer"],
)
def test_train_step_is_the_same_on_one_and_eight_devices(options):
    one, eight = tiny.run_steps(20, devices=1), tiny.run_steps(20, devices=8, **options)
    assert len(eight.params["out_conv"]["kernel"].sharding.device_set) == 8
    assert _largest_difference(one.params, eight.params) < 1e-5
    assert _largest_difference(one.ema, eight.ema) < 1e-5
    loss_one, loss_eight = (mt.compute(state.metrics)["loss"] for state in (one, eight))
    assert loss_one == pytest.approx(loss_eight, rel=1e-5)


def test_train_step_with_pmap_and_microbatches_equals_the_full_batch():
    full = tiny.run_steps(3)
    parts = tiny.run_steps(3, devices=2, microbatch=4, data_parallel="pmap")
    assert _largest_difference(full.params, parts.params) < 1e-5


def test_train_step_with_a_sharded_optimizer_leaves_an_eighth_of_it_on_each_device():
    state = tiny.run_steps(1, devices=8, shard_optimizer=True)

    def bytes_on(tree, device) -> int:
        shards = (shard for leaf in jax.tree.leaves(tree) for shard in leaf.addressable_shards)
        return sum(shard.data.nbytes for shard in shards if shard.device == device)

    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(state.opt_state))
    for device in jax.devices():
        # What eight does not divide, counts and the output's two biases, is on every one.
        assert whole / 8 <= bytes_on(state.opt_state, device) < whole / 8 + 1000
        assert bytes_on(state.params, device) == sum(
            x.nbytes for x in jax.tree.leaves(state.params)
        )


def test_train_step_keeps_the_same_loss_history_on_eight_devices_and_with_microbatches():
    run = tiny.training()
    sampler = timestep_sampler("loss-second-moment", run.objective.num_timesteps)
    objective = dataclasses.replace(run.objective, timestep_sampler=sampler)
    states = []
    for devices, microbatch in ((1, 0), (8, 0), (1, 4)):
        parts = (objective, run.model, run.optimizer, tiny.mesh(devices))
        with tiny.optimised():
            step = make_train_step(*parts, StepOptions(microbatch=microbatch))
        state = make_init(*parts)[0](jax.random.key(0))
        for i in range(12):
            state = step(state, tiny.batch(i, devices))
        states.append(state)
    one, *others = (state.sampler_state for state in states)
    # Warm, so that the last steps were drawn by loss.
    assert np.all(one["counts"] == 10)
    for other in others:
        np.testing.assert_array_equal(one["counts"], other["counts"])
        np.testing.assert_allclose(one["history"], other["history"], rtol=1e-4, atol=1e-5)
    assert mt.compute(states[0].metrics)["loss"] != mt.compute(states[0].metrics)["unweighted/loss"]


def test_train_step_with_microbatches_equals_the_full_batch():
    full, parts = tiny.run_steps(3), tiny.run_steps(3, microbatch=4)
    assert _largest_difference(full.params, parts.params) < 1e-5
    assert mt.compute(full.metrics)["mse_q1"] == pytest.approx(
        mt.compute(parts.metrics)["mse_q1"], rel=1e-5
    )


def test_train_step_skips_and_counts_what_is_not_finite():
    reference = tiny.run_steps(2)
    state = tiny.run_steps(1)
    bad = tiny.batch(1, 1)
    bad["image"] = bad["image"].at[0, 0, 0, 0].set(jnp.nan)
    expected = jax.tree.map(np.asarray, {"params": state.params, "opt": state.opt_state})
    loss = mt.compute(state.metrics)["loss"]
    state = tiny.train_step(1)(state, bad)
    assert (int(state.step), int(state.skipped), int(state.skipped_in_row)) == (2, 1, 1)
    assert _largest_difference(expected, {"params": state.params, "opt": state.opt_state}) == 0
    assert mt.compute(state.metrics)["loss"] == loss
    state = tiny.train_step(1)(state, tiny.batch(2, 1))
    assert (int(state.step), int(state.skipped), int(state.skipped_in_row)) == (3, 1, 0)
    assert _largest_difference(reference.params, state.params) > 0


def test_train_step_applies_nothing_once_the_limit_is_reached():
    step = tiny.train_step(1, max_nonfinite_steps=2)
    state = tiny.init(1)(jax.random.key(0))
    for i in range(4):
        batch = tiny.batch(i, 1)
        if i < 2:
            batch["image"] = jnp.full_like(batch["image"], jnp.nan)
        state = step(state, batch)
    # The last two were finite, and came too late.
    assert (int(state.step), int(state.skipped), int(state.skipped_in_row)) == (4, 4, 4)


def test_train_step_hides_its_share_of_labels():
    seen = []

    class Network:
        num_classes = 4

        @staticmethod
        def apply(variables, x, timesteps, y, low_res, train, rngs):
            jax.debug.callback(lambda labels: seen.extend(labels.tolist()), y)
            return jnp.concatenate([x, x], axis=-1) * variables["params"]["w"]

    run = tiny.training()
    options = StepOptions(label_dropout=0.25)
    step = make_train_step(run.objective, Network(), run.optimizer, tiny.mesh(1), options)
    state = init_state({"w": jnp.ones(())}, run.objective, run.optimizer)
    image, label = np.zeros((400, 2, 2, 1), np.float32), np.ones(400, np.int32)
    jax.block_until_ready(step(state, {"image": image, "label": label}))
    jax.effects_barrier()
    assert set(seen) == {1, 3}
    assert 60 < seen.count(3) < 140


@pytest.mark.parametrize(
    ("batch_size", "microbatch", "message"),
    [
        (12, 0, "12 is not divisible by 8 devices"),
        (0, 0, "batch_size=0"),
        (32, 24, "24 does not divide train.batch_size=32"),
        (32, 4, "4 is not divisible by 8 devices"),
        (32, -8, "microbatch=-8"),
    ],
)
def test_check_batch_size_names_both_values(batch_size, microbatch, message):
    with pytest.raises(ValueError, match=message):
        check_batch_size(batch_size, microbatch, tiny.mesh(8))
