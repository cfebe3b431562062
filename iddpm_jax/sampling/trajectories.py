"""What happens between noise and image: strips, films, encodings and interpolations.

Axis letters: b images, K moments, H W c image.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int32, UInt8

from iddpm_jax import diffusion as dm
from iddpm_jax.data.pixels import to_float
from iddpm_jax.data.standardization import UNCHANGED, Standardization
from iddpm_jax.errors import UsageError
from iddpm_jax.sampling.generator import Generator, draw_all
from iddpm_jax.sampling.inputs import Inputs, in_turn


def reverse_process(
    generator: Generator,
    moments: int,
    labels: Int[np.ndarray, " b"] | None,
    count: int,
    *,
    seed: int,
    on_part: Callable[[float], object] = lambda share: None,
) -> tuple[UInt8[np.ndarray, "K b H W c"], UInt8[np.ndarray, "K b H W c"]]:
    """x_t and the predicted x_0 of the first samples, at moments evenly spread over the steps.

    Args:
      moments: K, at most the number of steps; the last one is the sample itself.
      labels: None for an unconditional model.
      count: b.
      on_part: called at every moment of every batch with its share of the whole.
    """
    inputs = Inputs(labels=in_turn(labels))
    shown, batches = [], generator.batches(count)
    for indices in batches:
        moments_of_batch = []
        for x_t, pred_xstart, *_ in generator.trajectory(seed, indices, inputs, moments):
            moments_of_batch.append([np.asarray(generator.finish(x)) for x in (x_t, pred_xstart)])
            on_part(1 / (moments * len(batches)))
        shown.append(np.asarray(moments_of_batch))
    x_t, pred_xstart = np.concatenate(shown, axis=2)[:, :, :count].swapaxes(0, 1)
    return x_t, pred_xstart


def forward_process(
    d: dm.GaussianDiffusion,
    images: UInt8[np.ndarray, "b H W c"],
    moments: int,
    seed: int,
    standardization: Standardization = UNCHANGED,
) -> tuple[UInt8[np.ndarray, "K b H W c"], Int32[np.ndarray, " K"]]:
    """Real images on their way to noise.

    Args:
      moments: K; the first is the image itself.

    Returns:
      x_t and the timesteps.
    """
    x_start = standardization(to_float(jnp.asarray(images)))
    noise = jax.random.normal(dm.stream(seed, dm.Stream.FORWARD_PROCESS), x_start.shape)
    timesteps = np.linspace(0, d.num_timesteps - 1, moments).round().astype(np.int32)
    rows = [dm.q_sample(d, x_start, jnp.full(len(images), t), noise) for t in timesteps]
    return np.stack([np.asarray(standardization.to_uint8(x)) for x in rows]), timesteps


def invert(
    generator: Generator, images: UInt8[np.ndarray, "b H W c"], labels: Int[np.ndarray, " b"] | None
) -> tuple[Float32[np.ndarray, "b H W c"], UInt8[np.ndarray, "b H W c"]]:
    """DDIM inversion: encodes images into noise, and decodes that noise again.

    Args:
      generator: its sampler does not matter: both ways are DDIM with η = 0.
      labels: None for an unconditional model.

    Returns:
      The noise x_T and the reconstruction.
    """
    generator = dataclasses.replace(generator, sampler="ddim", options={})
    count, label_of = len(images), in_turn(labels)
    encoded = [
        np.asarray(generator.encode(images[indices % count], label_of(indices)))
        for indices in generator.batches(count)
    ]
    noise = np.concatenate(encoded)[:count]
    return noise, draw_all(generator, count, 0, Inputs(labels=label_of, x_T=in_turn(noise)))


def slerp(
    a: Float[Array, "*shape"],
    b: Float[Array, "*shape"],
    weights: Sequence[float] | Float[np.ndarray, " K"],
) -> Float[Array, " _ *shape"]:
    """Spherical interpolation from a (weight 0) to b (weight 1), one for each weight.

    Unlike on a straight line, what lies between two draws of Gaussian noise is as long as
    they are (DDIM, Song et al. 2021, appendix D.5).
    """
    cosine = jnp.vdot(a, b) / (jnp.linalg.norm(a.ravel()) * jnp.linalg.norm(b.ravel()))
    angle = jnp.arccos(jnp.clip(cosine, -1, 1))
    weight = jnp.asarray(weights).reshape(-1, *[1] * a.ndim)
    # Two directions that are the same have nothing between them.
    safe = jnp.where(angle < 1e-6, 1.0, jnp.sin(angle))
    from_a = jnp.where(angle < 1e-6, 1 - weight, jnp.sin((1 - weight) * angle) / safe)
    from_b = jnp.where(angle < 1e-6, weight, jnp.sin(weight * angle) / safe)
    return from_a * a[None] + from_b * b[None]


def check_deterministic(generator: Generator) -> None:
    """UsageError if the sampler adds noise on its way, so that x_T does not say all."""
    if dm.needs_noise(dm.SAMPLERS[generator.sampler], **generator.options):
        without = [name for name, step in dm.SAMPLERS.items() if not dm.needs_noise(step)]
        options = "".join(f" with {key}={value}" for key, value in generator.options.items())
        raise UsageError(
            f"interpolation needs a deterministic sampler ({' or '.join(without)}), "
            f"not {generator.sampler}{options}"
        )


def interpolate(
    generator: Generator, seeds: tuple[int, int], frames: int, labels: Int[np.ndarray, " R"] | None
) -> UInt8[np.ndarray, "rows K H W c"]:
    """Images from one seed's noise to the other's, for each label.

    Args:
      generator: with a sampler that adds no noise: what it starts from then says all.
      frames: K.
      labels: one row each; None for an unconditional model, which has one row.

    Raises:
      UsageError: the sampler adds noise on its way.
    """
    check_deterministic(generator)
    first = [dm.stream_keys(seed, generator.x_T_stream, np.arange(1)) for seed in seeds]
    start, end = (dm.initial_noise(keys, generator.image_shape)[0] for keys in first)
    path = np.asarray(slerp(start, end, np.linspace(0, 1, frames)))
    rows = 1 if labels is None else len(labels)
    row_labels = None if labels is None else labels.repeat(frames)
    inputs = Inputs(labels=in_turn(row_labels), x_T=in_turn(path))
    images = draw_all(generator, rows * frames, 0, inputs)
    return images.reshape(rows, frames, *generator.image_shape)
