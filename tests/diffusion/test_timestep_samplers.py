import jax
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


def test_timestep_sampler_refuses_unknown_name():
    with pytest.raises(ValueError, match=r"'unifrom'.*uniform"):
        diffusion.timestep_sampler("unifrom", 10)
