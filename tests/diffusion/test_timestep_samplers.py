import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iddpm_jax import diffusion


def test_uniform_draws_every_timestep_with_weight_one():
    sampler = diffusion.timestep_sampler("uniform", 10)
    t, weights = sampler.sample(sampler.init(), jax.random.key(0), 10_000)
    counts = np.bincount(t, minlength=10)
    assert t.dtype == np.int32
    assert counts.shape == (10,)
    assert np.all(np.abs(counts - 1000) < 5 * np.sqrt(1000))
    assert np.all(np.asarray(weights) == 1)


def _reference_update(history, counts, t, losses):
    """One loss after the other, as the reference does it."""
    for i, loss in zip(t, losses, strict=True):
        if counts[i] == history.shape[1]:
            history[i] = np.append(history[i, 1:], loss)
        else:
            history[i, counts[i]] = loss
            counts[i] += 1


def test_loss_second_moment_takes_duplicates_in_order():
    random = np.random.default_rng(0)
    sampler = diffusion.timestep_sampler("loss-second-moment", 7)
    state, update = sampler.init(), jax.jit(sampler.update)
    history, counts = np.zeros((7, 10), np.float32), np.zeros(7, int)
    for _ in range(12):
        # Up to 40 losses for seven timesteps: more than a history holds.
        t = random.integers(0, 3 + random.integers(5), 40).clip(max=6).astype(np.int32)
        losses = random.random(40).astype(np.float32)
        state = update(state, t, losses)
        _reference_update(history, counts, t, losses)
        np.testing.assert_array_equal(state["history"], history)
        np.testing.assert_array_equal(state["counts"], counts)


def test_loss_second_moment_draws_by_loss_and_weighs_it_off():
    sampler = diffusion.timestep_sampler("loss-second-moment", 5)
    loss_of = jnp.array([10.0, 1.0, 1.0, 0.5, 0.1])
    state = sampler.init()
    t, weights = sampler.sample(state, jax.random.key(0), 1000)
    assert np.all(np.asarray(weights) == 1)  # Not warm yet.
    t = jnp.tile(jnp.arange(5, dtype=jnp.int32), 10)
    state = sampler.update(state, t, loss_of[t])
    t, weights = sampler.sample(state, jax.random.key(1), 20_000)
    counts = np.bincount(t, minlength=5) / 20_000
    expected = 0.999 * np.asarray(loss_of / loss_of.sum()) + 0.001 / 5
    np.testing.assert_allclose(counts, expected, atol=0.01)
    weighted = np.asarray(loss_of[t] * weights)
    # The estimate of the mean loss is unbiased, and far steadier than that of uniform draws.
    assert weighted.mean() == pytest.approx(float(loss_of.mean()), rel=0.01)
    assert weighted.std() < 0.1 * float(loss_of.std())


def test_timestep_sampler_refuses_unknown_name():
    with pytest.raises(ValueError, match=r"'unifrom'.*uniform"):
        diffusion.timestep_sampler("unifrom", 10)
