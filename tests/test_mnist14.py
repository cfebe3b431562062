"""The small MNIST model: its recipe, its version on digits, and its benchmark."""

import jax
import numpy as np
import pytest

from benchmarks.mnist14 import time_sampling, time_training
from iddpm_jax import models
from iddpm_jax.config.build_diffusion import build_diffusion
from iddpm_jax.config.build_model import build_model
from iddpm_jax.config.build_training import build_training
from iddpm_jax.recipes import digits_mnist14, mnist14


@pytest.fixture(scope="module")
def small():
    """The recipe with one block and 20 diffusion steps."""
    config = mnist14.get_config()
    config.model.num_res_blocks = 1
    config.train.batch_size = 8
    return config


def test_recipe_is_the_model_that_it_says():
    config = mnist14.get_config()
    model = build_model(config)
    assert [32 * mult for mult in model.channel_mult] == [32, 64, 32]
    assert models.feature_sizes(14, 3, model.conv_resample) == [14, 7, 4]
    count = sum(leaf.size for leaf in jax.tree.leaves(models.abstract_params(model)))
    assert count == 1_073_409
    d = build_diffusion(config)
    assert (d.num_timesteps, d.var_type, d.loss_type) == (1000, "fixed_small", "rescaled_mse")
    kept = np.asarray(build_diffusion(config, "linspace800").model_timesteps)
    np.testing.assert_array_equal(kept, np.linspace(0, 999, 800).round())


def test_recipe_on_digits_trains():
    training = build_training(digits_mnist14.get_config())
    assert training.data.image_shape == (8, 8, 1)
    assert next(training.data.batches)["image"].shape == (128, 8, 8, 1)


def test_benchmark_times_every_part(small):
    trained = time_training(small, repeats=1)
    sampled = time_sampling(small, repeats=1)
    assert min({**trained, **sampled}.values()) > 0
