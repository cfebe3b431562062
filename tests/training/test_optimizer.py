import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from iddpm_jax.training.optimizer import linear_anneal, make_optimizer, params_ema


def _params():
    return {"a": jnp.array([1.0, -2.0]), "b": {"c": jnp.array(3.0)}}


def test_params_ema_averages_what_the_parameters_become():
    optimizer = optax.chain(optax.sgd(0.1), params_ema((0.5, 0.9)))
    params = _params()
    state = optimizer.init(params)
    expected = {"0.5": params["a"], "0.9": params["a"]}
    for step in range(4):
        grads = jax.tree.map(lambda p, s=step: jnp.ones_like(p) * (s + 1), params)
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        expected = {
            decay: float(decay) * old + (1 - float(decay)) * params["a"]
            for decay, old in expected.items()
        }
    ema = optax.tree.get(state, "ema")
    assert set(ema) == {"0.5", "0.9"}
    for decay, value in expected.items():
        np.testing.assert_allclose(ema[decay]["a"], value, rtol=1e-6)


def test_params_ema_starts_as_copies():
    params = _params()
    ema = params_ema((0.9,)).init(params).ema["0.9"]
    assert ema["a"].unsafe_buffer_pointer() != params["a"].unsafe_buffer_pointer()
    np.testing.assert_array_equal(ema["a"], params["a"])


@pytest.mark.parametrize("rates", [(1.0,), (-0.1,), (0.9, 0.9)])
def test_params_ema_refuses_bad_rates(rates):
    with pytest.raises(ValueError, match=r"ema_rate=\("):
        params_ema(rates)


def test_params_ema_needs_parameters():
    transformation = params_ema((0.9,))
    with pytest.raises(ValueError, match="needs params"):
        transformation.update(_params(), transformation.init(_params()))


def test_linear_anneal_reaches_zero():
    schedule = linear_anneal(0.4, 8)
    assert [float(schedule(step)) for step in (0, 2, 8, 9)] == pytest.approx([0.4, 0.3, 0, 0])
    assert float(linear_anneal(0.4, 0)(10_000)) == pytest.approx(0.4)


def test_make_optimizer_clips_the_gradient():
    params = {"a": jnp.zeros(2)}
    grads = {"a": jnp.array([30.0, 40.0])}
    moments = []
    for clip in (0.0, 5.0):
        optimizer = make_optimizer(linear_anneal(0.1, 0), grad_clip=clip)
        _, state = optimizer.update(grads, optimizer.init(params), params)
        moments.append(optax.tree.get(state, "mu")["a"])
    np.testing.assert_allclose(moments[0], [3.0, 4.0], rtol=1e-5)
    np.testing.assert_allclose(moments[1], [0.3, 0.4], rtol=1e-5)


def test_make_optimizer_decays_weights():
    params = {"a": jnp.array([2.0])}
    optimizer = make_optimizer(linear_anneal(0.1, 0), weight_decay=0.5)
    updates, _ = optimizer.update({"a": jnp.zeros(1)}, optimizer.init(params), params)
    np.testing.assert_allclose(updates["a"], [-0.1 * 0.5 * 2.0], rtol=1e-5)
