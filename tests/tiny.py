"""The smallest training that has every part, built once and shared by tests."""

import functools

import jax
import ml_collections
import numpy as np

from configs import digits
from iddpm_jax import factory, models
from iddpm_jax.training import sharding
from iddpm_jax.training.step import make_init, make_train_step

BATCH = 16


def config() -> ml_collections.ConfigDict:
    """Digits with a network of one resolution and ten diffusion steps."""
    config = digits.get_config()
    # Two channels a group: with one, biases before a norm have no gradient but rounding, which
    # Adam enlarges to full steps, and runs that should be equal drift apart.
    config.model.num_channels = 64
    config.model.num_res_blocks = 1
    config.model.channel_mult = (1,)
    config.model.attention_resolutions = ()
    config.model.dropout = 0.0
    config.diffusion.steps = 10
    config.train.batch_size = BATCH
    config.train.num_steps = 4
    config.train.lr = 1e-4
    config.train.ema_rate = (0.5, 0.9)
    config.train.sample_respacing = "ddim5"
    config.train.num_samples = 20
    return config


@functools.cache
def training():
    """A built run of the tiny configuration."""
    return factory.build_training(config())


def mesh(devices: int):
    return sharding.make_mesh(jax.devices()[:devices])


def random_params(model, scale: float, seed: int):
    """Normal parameters: some layers start at zero, and would hide what comes before them."""
    leaves, structure = jax.tree.flatten(models.abstract_params(model))
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    values = [
        scale * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, values)


def train_step(devices: int, microbatch: int = 0, max_nonfinite_steps: int = 100):
    """The jitted step; one function, and one compilation, for each set of arguments."""
    return _train_step(devices, microbatch, max_nonfinite_steps)


@functools.cache
def _train_step(devices: int, microbatch: int, max_nonfinite_steps: int):
    run = training()
    return make_train_step(
        run.diffusion,
        run.model,
        run.optimizer,
        run.timestep_sampler,
        run.learning_rate,
        mesh(devices),
        seed=0,
        microbatch=microbatch,
        max_nonfinite_steps=max_nonfinite_steps,
    )


@functools.cache
def init(devices: int):
    run = training()
    return make_init(
        run.diffusion,
        run.model,
        run.optimizer,
        run.timestep_sampler,
        mesh(devices),
    )


def batch(step: int, devices: int) -> dict[str, jax.Array]:
    """A batch that depends on `step` alone."""
    random = np.random.default_rng(step)
    return sharding.shard_batch(
        mesh(devices),
        {
            "image": random.uniform(-1, 1, (BATCH, 8, 8, 1)).astype(np.float32),
            "label": random.integers(0, 10, BATCH).astype(np.int32),
        },
    )


def run_steps(count: int, devices: int = 1, microbatch: int = 0):
    """The state after `count` steps."""
    state = init(devices)(jax.random.key(0))
    for step in range(count):
        state = train_step(devices, microbatch)(state, batch(step, devices))
    return state
