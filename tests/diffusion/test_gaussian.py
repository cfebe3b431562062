import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iddpm_jax import diffusion as dm
from iddpm_jax.diffusion.gaussian import extract

STEPS = 10
TYPES = {"mean_type": "epsilon", "var_type": "fixed_small", "loss_type": "mse"}
# Neighbours of both ends, what would wrap round to a step, and the ends of int32.
OUTSIDE = jnp.array([-1, -STEPS, STEPS, -STEPS - 1, 2**31 - 1, -(2**31)])


@pytest.fixture(scope="module")
def d():
    return dm.make_diffusion(dm.beta_schedule("cosine", STEPS), **TYPES)


def test_extract_is_the_tables_entry_and_nan_outside(d):
    inside = jnp.array([0, 3, STEPS - 1])
    for look in (extract, jax.jit(extract, static_argnums=2)):
        found = look(d.betas, jnp.concatenate([OUTSIDE, inside]), 4)
        assert found.shape == (len(OUTSIDE) + 3, 1, 1, 1)
        assert np.isnan(found[: len(OUTSIDE)]).all()
        np.testing.assert_array_equal(found[len(OUTSIDE) :].ravel(), d.betas[inside])


def test_model_timestep_is_nan_outside(d):
    assert np.isnan(dm.model_timestep(d, OUTSIDE)).all()
    np.testing.assert_array_equal(dm.model_timestep(d, jnp.arange(STEPS)), np.arange(STEPS))


def test_learned_range_is_not_clipped_so_that_respacing_enlarges_what_lies_outside():
    betas = dm.beta_schedule("cosine", 1000)
    types = TYPES | {"mean_type": "x_start", "var_type": "learned_range"}
    full = dm.make_diffusion(betas, **types)
    kept = dm.space_timesteps(1000, "250")
    respaced = dm.make_diffusion(betas, **types, keep_timesteps=kept)

    def at(d, t):
        smallest, largest = d.posterior_variance[t], d.betas[t]
        return smallest, largest, smallest + (0.05 * d.posterior_mean_coef1[t]) ** 2

    smallest, largest, best = at(full, kept[1])
    fraction = jnp.log(best / smallest) / jnp.log(largest / smallest)
    x, t = jnp.zeros((1, 1, 1, 1)), jnp.array([1])
    output = jnp.concatenate([x, x + 2 * fraction - 1], axis=-1)
    variance = dm.p_mean_variance_from_output(respaced, output, x, t).variance.item()
    # What the reference gives as well: docs/parity.md quotes these.
    assert [float(fraction), variance] == pytest.approx([5.16, 0.413], rel=0.02)
    _, largest, best = at(respaced, 1)
    assert variance > 200 * best > 1000 * largest


@pytest.mark.parametrize(
    "step", [dm.ddpm_step, dm.ddim_step, dm.dpm_solver_step, dm.ddim_reverse_step]
)
def test_steps_from_outside_the_process_give_nan(d, step):
    x = jnp.ones((len(OUTSIDE), 2, 2, 1))
    options = {"last_xstart": x} if step is dm.dpm_solver_step else {}
    x_prev, _ = step(d, lambda x, t: x, x, OUTSIDE, x, **options)
    assert np.isnan(x_prev).all()
    assert np.isnan(dm.q_sample(d, x, OUTSIDE, x)).all()
