"""What importance sampling of timesteps is for: less noise in the gradient of L_vlb."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.gradient_noise import second_moments, variance
from iddpm_jax import diffusion as dm
from iddpm_jax.config.build_data import build_source
from iddpm_jax.config.build_diffusion import build_diffusion
from iddpm_jax.config.build_model import build_model
from iddpm_jax.data.pixels import to_float
from iddpm_jax.diffusion.timestep_samplers import loss_second_moment_probabilities
from tests import tiny

EXAMPLES = 8


@pytest.fixture(scope="module")
def problem():
    """Process, network, parameters and examples of L_vlb."""
    config = tiny.config()
    config.diffusion.use_kl = True
    model, d = build_model(config), build_diffusion(config)
    params = tiny.random_params(model, 0.03, seed=0)
    source = build_source(config)
    batch = source.batch(np.arange(EXAMPLES))
    return d, model, params, to_float(batch["image"]), batch["label"]


def _losses(problem, t):
    d, model, params, images, labels = problem
    noise = jax.random.normal(jax.random.fold_in(jax.random.key(7), t), images.shape)
    steps = jnp.full(len(images), t)
    return dm.training_losses(
        d, lambda x, s: model.apply({"params": params}, x, s, y=labels), images, steps, noise
    )["loss"]


def test_importance_sampling_is_unbiased_and_quiets_the_gradient(problem):
    d = problem[0]
    losses = jax.jit(functools.partial(_losses, problem))
    losses = np.array([losses(jnp.int32(t)) for t in range(d.num_timesteps)])
    sampler = dm.timestep_sampler("loss-second-moment", d.num_timesteps)
    state = sampler.init()
    for _ in range(2):  # Histories hold ten losses.
        t = np.repeat(np.arange(d.num_timesteps, dtype=np.int32), EXAMPLES)
        state = sampler.update(state, t, losses.reshape(-1))
    p = np.asarray(loss_second_moment_probabilities(state, 0.001), np.float64)
    assert p.max() > 2 * p.min()

    # The mean of weights · loss over the distribution of t is the mean loss, term by term.
    t, weights = sampler.sample(state, jax.random.key(0), 4096)
    weight_of = dict(zip(t.tolist(), weights.tolist(), strict=True))
    assert len(weight_of) == d.num_timesteps
    expected = sum(p[i] * weight_of[i] * losses[i].mean() for i in range(d.num_timesteps))
    assert expected == pytest.approx(losses.mean(), rel=1e-5)

    with tiny.optimised():
        moments, mean_square = second_moments(*problem, jax.random.key(1))
    uniform = variance(moments, np.full(p.size, 1 / p.size), mean_square)
    assert 0 < variance(moments, p, mean_square) < 0.8 * uniform
