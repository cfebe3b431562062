import numpy as np
import pytest

from iddpm_jax import diffusion


@pytest.mark.parametrize("name", diffusion.beta_schedule_names())
@pytest.mark.parametrize("steps", [20, 100, 1000, 4000])
def test_beta_schedule_ends_in_noise(name, steps):
    betas = diffusion.beta_schedule(name, steps)
    assert betas.dtype == np.float64
    assert betas.shape == (steps,)
    assert np.cumprod(1 - betas)[-1] < 1e-3


def test_beta_schedule_scaled_linear_and_sigmoid_are_the_closed_forms():
    scaled = diffusion.beta_schedule("scaled_linear", 1000)
    t = np.arange(1000) / 999
    np.testing.assert_allclose(scaled, ((1 - t) * 0.01 + t * 0.02**0.5) ** 2, rtol=1e-12)
    sigmoid = diffusion.beta_schedule("sigmoid", 1000)
    expected = 1e-4 + (0.02 - 1e-4) / (1 + np.exp(6 - 12 * t))
    np.testing.assert_allclose(sigmoid, expected, rtol=1e-12)
    cosine = diffusion.beta_schedule("cosine", 1000)
    np.testing.assert_array_equal(diffusion.beta_schedule("squaredcos_cap_v2", 1000), cosine)


def test_beta_schedule_refuses_unknown_name():
    with pytest.raises(ValueError, match=r"'cosin'.*linear, cosine"):
        diffusion.beta_schedule("cosin", 1000)


@pytest.mark.parametrize("steps", [2, 19])
def test_beta_schedule_refuses_linear_below_20_steps(steps):
    with pytest.raises(ValueError, match=rf"num_timesteps={steps} has beta\[.*outside \(0, 1\]"):
        diffusion.beta_schedule("linear", steps)


def test_beta_schedule_refuses_no_steps():
    with pytest.raises(ValueError, match="num_timesteps=0"):
        diffusion.beta_schedule("cosine", 0)
