"""Training of a network of two layers: where it does not matter what is learned."""

import functools

import jax
import jax.numpy as jnp

from iddpm_jax.training.step import make_init, make_train_step
from tests import tiny


class Linear:
    """Two linear maps of each pixel of images `[B, H, W, 1]`, to the output's two channels."""

    num_classes = None
    dtype = jnp.float32

    @staticmethod
    def init_params(key):
        return {
            name: {"kernel": jax.random.normal(key, (channels, 2)), "bias": jnp.zeros(2)}
            for name, channels in (("in_conv", 1), ("out_conv", 2))
        }

    @staticmethod
    def apply(variables, x, timesteps, y, low_res, train, rngs):
        del timesteps, y, low_res, train, rngs
        for name in ("in_conv", "out_conv"):
            layer = variables["params"][name]
            x = x @ layer["kernel"]
            x += jnp.broadcast_to(layer["bias"], x.shape)
        return x


@functools.cache
def _parts(devices: int):
    run = tiny.training()
    return run.objective, Linear(), run.optimizer, tiny.mesh(devices)


@functools.cache
def init_and_abstract_state(devices: int):
    return make_init(*_parts(devices))


def abstract_state(devices: int = 1):
    return init_and_abstract_state(devices)[1]


@functools.cache
def train_step(devices: int):
    return make_train_step(*_parts(devices))


def run_steps(count: int):
    """The state after `count` steps."""
    state = init_and_abstract_state(1)[0](jax.random.key(0))
    for number in range(count):
        state = train_step(1)(state, tiny.batch(number, 1))
    return state
