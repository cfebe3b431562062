"""Every random number there is: named streams of one seed, and noise drawn from them.

A seed and a name make a key, `stream(seed, Stream.X_T)`. What tells draws of one stream apart, the
step of training, the number of a sample or of an image, and the timestep, is folded in below that.
The same seed may therefore be used for everything: no two streams have a key in common, whatever
numbers follow.

Only boundaries call `stream`; the mathematics takes noise, or the keys of a batch. The order and
the flips of the data are numpy's, and have nothing in common with these.

Axis letters: B batch, H W C image.
"""

import enum

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer, Key

from iddpm_jax.diffusion.shapes import Images, Keys, KeysLike
from iddpm_jax.errors import UsageError

Seed = Integer[Array | np.ndarray, ""] | np.integer | int


class Stream(enum.IntEnum):
    """What random numbers are for.

    The values are part of what a seed gives: a new stream gets the next one, none is ever given
    to another.
    """

    # Training; the step's number is folded in.
    PARAMETERS = 1  # of the network, at the start
    TRAINING_TIMESTEPS = 2
    TRAINING_NOISE = 3
    DROPOUT = 4  # of the network's activations; device and microbatch are folded in, too
    LABEL_DROPOUT = 5
    TRAINING_LOW_RES = 6  # what is added to the input of a super-resolution model
    # Sampling; the sample's number is folded in, and for noise the timestep below that.
    X_T = 7
    SAMPLING_NOISE = 8
    CHURN = 9  # reserved for samplers that add noise before a step
    # A super-resolution model, the second stage of a cascade.
    SECOND_STAGE_X_T = 10
    SECOND_STAGE_NOISE = 11
    SECOND_STAGE_LOW_RES = 12
    # The grids of training; the picture's number is folded in.
    PREVIEW_X_T = 13
    PREVIEW_LOW_RES = 14
    # The bound, and the search for timesteps, whose costs add up to that bound; the image's number
    # is folded in, and for noise the timestep below that.
    NLL_NOISE = 15
    NLL_LOW_RES = 16
    # Pictures of images on their way to noise.
    FORWARD_PROCESS = 17


def stream(seed: Seed, name: Stream) -> Key[Array, ""]:
    """The key of a stream; `seed` is an int from 0 to 2³² - 1, traced or not."""
    return jax.random.fold_in(jax.random.key(seed), int(name))


def stream_keys(seed: Seed, name: Stream, indices: Int[Array | np.ndarray, " b"]) -> Keys:
    """The keys of the samples, or images, of numbers `indices` in a stream."""
    return jax.vmap(jax.random.fold_in, (None, 0))(stream(seed, name), indices)


def per_sample_keys(key: KeysLike, batch: int, first: int = 0) -> Keys:
    """Keys of the samples `first` … `first + batch - 1`, each from `key` and its number alone.

    A batch of keys is returned as it is. Raw keys (`jax.random.PRNGKey`) are taken too.

    Raises:
      UsageError: another number of keys than `batch`.
    """
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    if key.ndim:
        if key.shape[0] != batch:
            raise UsageError(f"{key.shape[0]} keys were given for a batch of {batch}")
        return key
    return jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(batch))


def per_sample_noise(keys: Keys, t: Int[Array, ""] | int, shape: tuple[int, ...]) -> Images:
    """Standard normal float32 `[B, *shape]`, row i of which depends on `keys[i]` and `t` alone."""

    def draw(key: Key[Array, ""]) -> Float[Array, "*spatial c"]:
        return jax.random.normal(jax.random.fold_in(key, t), shape, jnp.float32)

    return jax.vmap(draw)(keys)


def initial_noise(keys: Keys, shape: tuple[int, ...]) -> Images:
    """x_T: standard normal float32 `[B, *shape]`, row i of which depends on `keys[i]` alone."""
    return jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys)
