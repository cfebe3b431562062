"""What happens between noise and image: strips, films, encodings and interpolations.

Axis letters: B images, K moments, H W C image.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from iddpm_jax import diffusion as dm
from iddpm_jax.errors import UsageError
from iddpm_jax.evaluation.generation import Generator, batch_size_for
from iddpm_jax.evaluation.standardization import UNCHANGED, Standardization


def reverse_process(
    generator: Generator,
    moments: int,
    labels: np.ndarray | None,
    count: int,
    *,
    seed: int,
    guidance: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """x_t and the predicted x_0 of the first samples, at moments evenly spread over the steps.

    Args:
      moments: K, at most the number of steps; the last one is the sample itself.
      labels: int32 `[B]`, or None.
      count: B.

    Returns:
      Two arrays, uint8 `[K, B, H, W, C]`.
    """
    padded = batch_size_for(count, count, generator.mesh)
    indices = np.arange(padded)
    labels = None if labels is None else np.resize(labels, padded)
    draw = generator.compile(moments)
    shown = [
        [np.asarray(generator.finish(x))[:count] for x in carry]
        for carry in draw(seed, indices, labels, guidance)
    ]
    x_t, pred_xstart = zip(*shown, strict=True)
    return np.stack(x_t), np.stack(pred_xstart)


def forward_process(
    d: dm.GaussianDiffusion,
    images: np.ndarray,
    moments: int,
    seed: int,
    standardization: Standardization = UNCHANGED,
) -> tuple[np.ndarray, np.ndarray]:
    """Real images on their way to noise.

    Args:
      images: uint8 `[B, H, W, C]`.
      moments: K; the first is the image itself.

    Returns:
      x_t, uint8 `[K, B, H, W, C]`, and the timesteps, int `[K]`.
    """
    x_start = standardization(jnp.asarray(images, jnp.float32) / 127.5 - 1)
    noise = jax.random.normal(dm.stream(seed, dm.Stream.FORWARD_PROCESS), x_start.shape)
    timesteps = np.linspace(0, d.num_timesteps - 1, moments).round().astype(np.int32)
    rows = [dm.q_sample(d, x_start, jnp.full(len(images), t), noise) for t in timesteps]
    return np.stack([np.asarray(standardization.to_uint8(x)) for x in rows]), timesteps


def invert(
    generator: Generator, images: np.ndarray, labels: np.ndarray | None, guidance: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """DDIM inversion: encodes images into noise, and decodes that noise again.

    Args:
      images: uint8 `[B, H, W, C]`.
      labels: int32 `[B]`, or None.

    Returns:
      The noise x_T, float32 `[B, H, W, C]`, and the reconstruction, uint8 of the same shape.
    """
    d, standardization = generator.d, generator.standardization
    x_start = standardization(jnp.asarray(images, jnp.float32) / 127.5 - 1)
    labels = None if labels is None else jnp.asarray(labels, jnp.int32)
    up = jnp.arange(d.num_timesteps - 1, dtype=jnp.int32)

    @jax.jit
    def both_ways(params, x_start):
        model_fn = generator.model_fn(params, labels, guidance)

        def run(x, timesteps, step):
            # x_0 is clipped: where hardly any signal is left, predicting it from ε multiplies the
            # network's error by 1/√ᾱ, which is 20,000 at the end of the cosine schedule.
            carry = (x, jnp.zeros_like(x))
            options = {"clip_denoised": standardization.clip_denoised}
            return dm.sample_steps(d, model_fn, carry, timesteps, None, step, **options)[0]

        x_T = run(x_start, up, dm.ddim_reverse_step)  # noqa: N806
        down = jnp.arange(d.num_timesteps - 1, -1, -1, dtype=jnp.int32)
        return x_T, standardization.to_uint8(run(x_T, down, dm.ddim_step))

    x_T, reconstruction = both_ways(generator.params, x_start)  # noqa: N806
    return np.asarray(x_T), np.asarray(reconstruction)


def slerp(a: jax.Array, b: jax.Array, weights: Sequence[float]) -> jax.Array:
    """Spherical interpolation from a (weight 0) to b (weight 1), `[…]` to `[K, …]`.

    Unlike on a straight line, what lies between two draws of Gaussian noise is as long as
    they are (DDIM, Song et al. 2021, appendix D.5).
    """
    cosine = jnp.vdot(a, b) / (jnp.linalg.norm(a.ravel()) * jnp.linalg.norm(b.ravel()))
    angle = jnp.arccos(jnp.clip(cosine, -1, 1))
    weights = jnp.asarray(weights).reshape(-1, *[1] * a.ndim)
    # Two directions that are the same have nothing between them.
    safe = jnp.where(angle < 1e-6, 1.0, jnp.sin(angle))
    from_a = jnp.where(angle < 1e-6, 1 - weights, jnp.sin((1 - weights) * angle) / safe)
    from_b = jnp.where(angle < 1e-6, weights, jnp.sin(weights * angle) / safe)
    return from_a * a + from_b * b


def interpolate(
    generator: Generator,
    seeds: tuple[int, int],
    frames: int,
    labels: np.ndarray | None,
    guidance: float = 1.0,
) -> np.ndarray:
    """Images from one seed's noise to the other's, for each label.

    Args:
      generator: with the sampler ddim and eta 0, or dpm-solver++: the noise then says all.
      labels: int32 `[R]`, one row each; None for an unconditional model, R = 1.

    Returns:
      uint8 `[R, frames, H, W, C]`.

    Raises:
      UsageError: the sampler adds noise on its way.
    """
    if generator.sampler == "ddpm" or generator.eta:
        raise UsageError(
            f"interpolation needs a deterministic sampler (ddim with eta=0, or dpm-solver++), "
            f"not {generator.sampler} with eta={generator.eta}"
        )
    first = [dm.stream_keys(seed, generator.x_T_stream, np.arange(1)) for seed in seeds]
    ends = [dm.initial_noise(keys, generator.image_shape)[0] for keys in first]
    path = slerp(*ends, np.linspace(0, 1, frames))
    rows = 1 if labels is None else len(labels)
    count = rows * frames
    padded = batch_size_for(count, count, generator.mesh)
    x_T = np.resize(np.asarray(path), (padded, *generator.image_shape))  # noqa: N806
    each = None if labels is None else np.resize(np.repeat(labels, frames), padded)
    *_, carry = generator.compile()(0, np.arange(padded), each, guidance, x_T)
    images = np.asarray(generator.finish(carry[0]))[:count]
    return images.reshape(rows, frames, *generator.image_shape)
