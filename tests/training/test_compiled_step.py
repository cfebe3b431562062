"""What the compiled train step does, guarded without timing anything."""

import jax
import numpy as np
import pytest

from benchmarks import flops, hlo
from benchmarks.memory import kept_activations
from iddpm_jax import diffusion as dm
from iddpm_jax.training.checkpoints import Checkpoints
from tests import tiny

DEVICES = 8


def _compiled(devices: int):
    return (
        tiny.train_step(devices)
        .lower(tiny.abstract_state(devices), tiny.batch(0, devices))
        .compile()
    )


def _size(tree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def test_devices_exchange_gradients_and_nothing_else():
    collectives = hlo.collectives(_compiled(DEVICES).as_text())
    gradients = _size(tiny.abstract_state(1).params)
    assert {one.kind for one in collectives} == {"all-reduce"}
    large = [one.bytes for one in collectives if one.bytes > 1024]
    # One exchange, of all gradients. The rest are the metrics' sums: a few numbers.
    assert large == [gradients]
    assert len(collectives) <= 4


def test_one_device_exchanges_nothing():
    assert hlo.collectives(_compiled(1).as_text()) == []


def test_step_multiplies_as_often_as_the_network_is_defined_to():
    run = tiny.training()
    expected = 3 * tiny.BATCH * flops.of_network(run.model, run.data.image_shape[0])
    assert flops.in_program(_compiled(1).as_text()) == pytest.approx(expected, rel=0.02)


def test_step_keeps_activations_and_gradients_and_little_else():
    kept = tiny.BATCH * kept_activations(tiny.config())
    gradients = _size(tiny.abstract_state(1).params)
    assert _compiled(1).memory_analysis().temp_size_in_bytes <= kept + gradients


def test_steps_transfer_nothing_and_compile_once():
    step, state = tiny.train_step(1), tiny.init(1)(jax.random.key(0))
    batches = [tiny.batch(i, 1) for i in range(3)]
    state = step(state, batches[0])
    with tiny.compilations() as compilations, jax.transfer_guard("disallow"):
        for batch in batches[1:]:
            state = step(state, batch)
        assert compilations == []
        with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
            step(state, jax.device_get(batches[0]))


def test_sampling_needs_the_same_memory_for_any_number_of_steps():
    run = tiny.training()
    params = tiny.abstract_state(1).params

    def temporary(steps: int) -> int:
        d = dm.make_diffusion(
            dm.beta_schedule("cosine", steps),
            mean_type="epsilon",
            var_type="learned_range",
            loss_type="rescaled_mse",
        )

        def draw(params, x, key, y):
            return dm.sample_loop(
                d, lambda x, t: run.model.apply({"params": params}, x, t, y=y), x, key
            )

        x = jax.ShapeDtypeStruct((2, *run.data.image_shape), np.float32)
        y = jax.ShapeDtypeStruct((2,), np.int32)
        lowered = jax.jit(draw).lower(params, x, jax.random.key(0), y)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert temporary(10) == pytest.approx(temporary(1000), rel=0.05)


def test_saving_on_eight_devices_compiles_nothing(tmp_path):
    state = tiny.run_steps(1, devices=DEVICES)
    jax.clear_caches()  # Of what another test has saved.
    checkpoints = Checkpoints(tmp_path, keep=1, run=tiny.RUN)
    with tiny.compilations() as compilations:
        checkpoints.save(state, {})
        checkpoints.close()
    assert compilations == []
