"""The variational bound over a set of images: computed batch by batch, and summed up.

Axis letters: B batch, N images in all, T diffusion steps.
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from iddpm_jax import diffusion as dm
from iddpm_jax import models
from iddpm_jax.data.image_batches import ImageBatch
from iddpm_jax.diffusion.shapes import ModelFn
from iddpm_jax.distributed import to_devices
from iddpm_jax.distributed.mesh import batch_sharding, replicated
from iddpm_jax.errors import UsageError

_TERMS = ("vb", "mse", "xstart_mse")

# A scan is cut into so many parts at most, between which progress is shown.
_MAX_PARTS = 10


def make_bound(
    d: dm.GaussianDiffusion,
    model: models.Network,
    params: Any,
    mesh: Mesh,
    *,
    seed: int,
    clip_denoised: bool = True,
    low_res: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
) -> Callable[..., dict[str, np.ndarray]]:
    """Builds a function from a batch to its part of the bound, a compiled scan over t in parts.

    An image's noise depends on the seed and the image's number alone, not on its batch. For a
    super-resolution model, whose bound is that of an image given its smaller version, `low_res`
    makes that from images `[B, H, W, C]` and keys `[B]`.

    Returns:
      A function of a batch and, if it is wanted, of what to call after each part of the scan
      with its share of the whole. It returns float64 arrays: `total` and `prior` `[b]` and
      `decoder` `[b]` of the b images that count, in bits per dimension, and the sums over them
      of `vb`, `mse` and `xstart_mse` `[T]`, t = T-1 first.
    """
    rows = batch_sharding(mesh)
    params = jax.device_put(params, replicated(mesh))
    terms = _compiled_terms(model, mesh, clip_denoised, low_res)
    prior = _compiled_prior(mesh)
    parts = timestep_parts(d.num_timesteps)

    def evaluate(
        batch: ImageBatch, on_part: Callable[[float], object] = lambda share: None
    ) -> dict[str, np.ndarray]:
        labels = batch.labels if model.num_classes else None
        inputs = to_devices((batch.indices, batch.images, labels), rows)
        found: dict[str, list[np.ndarray]] = {name: [] for name in _TERMS}
        for timesteps in parts:
            part = jax.device_get(terms(params, d, np.uint32(seed), *inputs, timesteps))
            for name, values in part.items():
                found[name].append(values)
            on_part(1 / len(parts))
        columns = {
            # The last part is filled up with the last timestep.
            name: np.concatenate(values, axis=1, dtype=np.float64)[batch.valid, : d.num_timesteps]
            for name, values in found.items()
        }
        at_prior = np.asarray(jax.device_get(prior(d, inputs[1])), np.float64)[batch.valid]
        return {
            "total": columns["vb"].sum(axis=1) + at_prior,
            "prior": at_prior,
            "decoder": columns["vb"][:, -1],
            **{name: columns[name].sum(axis=0) for name in _TERMS},
        }

    return evaluate


def noise_and_network(
    model: models.Network,
    params: Any,
    seed: jax.Array | int,
    indices: jax.Array,
    images: jax.Array,
    labels: jax.Array | None,
    low_res: Callable[[jax.Array, jax.Array], jax.Array] | None,
) -> tuple[jax.Array, ModelFn]:
    """The keys `[B]` of the noise on images, and the network that sees their labels.

    Both depend on the seed and on the images' numbers `indices` int `[B]` alone, so that the bound
    and the costs of its steps (`step_costs`) are of the same noise, and add up.
    """
    small = None
    if low_res is not None:
        small = low_res(images, dm.stream_keys(seed, dm.Stream.NLL_LOW_RES, indices))

    def model_fn(x_t: jax.Array, timestep: jax.Array) -> jax.Array:
        return model.apply({"params": params}, x_t, timestep, y=labels, low_res=small)

    return dm.stream_keys(seed, dm.Stream.NLL_NOISE, indices), model_fn


@functools.cache  # So that a second bound of the same network compiles nothing.
def _compiled_terms(
    model: models.Network,
    mesh: Mesh,
    clip_denoised: bool,
    low_res: Callable[[jax.Array, jax.Array], jax.Array] | None,
) -> Callable[..., dict[str, jax.Array]]:
    # The process and the seed are arguments, not constants, so that another of the same size
    # finds the program in the compilation cache.
    @functools.partial(jax.jit, out_shardings=replicated(mesh))
    def terms(params, d, seed, indices, images, labels, timesteps):
        keys, model_fn = noise_and_network(model, params, seed, indices, images, labels, low_res)
        return dm.bpd_terms(d, model_fn, images, timesteps, keys, clip_denoised=clip_denoised)

    return terms


@functools.cache
def _compiled_prior(mesh: Mesh) -> Callable[[dm.GaussianDiffusion, jax.Array], jax.Array]:
    return jax.jit(dm.prior_bpd, out_shardings=replicated(mesh))


def timestep_parts(num_timesteps: int) -> np.ndarray:
    """All timesteps from the last to 0, in up to ten parts of one size, int32 `[parts, K]`.

    One size, so that one program serves all; what the last part lacks are more zeros.
    """
    size = -(-num_timesteps // _MAX_PARTS)
    timesteps = np.arange(num_timesteps - 1, -1, -1, dtype=np.int32)
    return np.pad(timesteps, (0, -num_timesteps % size)).reshape(-1, size)


class BoundSummary(NamedTuple):
    """The bound over all images, in bits per dimension.

    bits_per_dim: mean of the bound; standard_error: of that mean, over images; None for one.
    prior_bpd, kl_bpd, decoder_bpd: its parts: at T, between, and from t = 0 to the data.
    num_images: N.
    terms: means over images of `vb`, `mse` and `xstart_mse`, float64 `[T]`, t = T-1 first.
    """

    bits_per_dim: float
    standard_error: float | None
    prior_bpd: float
    kl_bpd: float
    decoder_bpd: float
    num_images: int
    terms: dict[str, np.ndarray]


def check_part(part: Mapping[str, np.ndarray], count: int, num_timesteps: int) -> None:
    """UsageError unless `part` is that of at most `count` images of a bound."""
    total = part.get("total")
    valid = len(total) if total is not None and np.ndim(total) == 1 else count + 1
    shapes = dict.fromkeys(("total", "prior", "decoder"), (valid,))
    shapes |= dict.fromkeys(_TERMS, (num_timesteps,))
    for name, shape in shapes.items():
        value = part.get(name)
        if valid > count or value is None or (value.shape, value.dtype) != (shape, np.float64):
            raise UsageError(f"{name} is not that of a bound of {num_timesteps} terms")


def summarise(parts: Iterable[Mapping[str, np.ndarray]]) -> BoundSummary:
    """Adds up what `make_bound`'s function returned for every batch."""
    parts = list(parts)
    total, prior, decoder = (
        np.concatenate([part[name] for part in parts]) for name in ("total", "prior", "decoder")
    )
    count = len(total)
    if not count:
        raise UsageError("there was no image that can be used")
    error = float(total.std(ddof=1) / math.sqrt(count)) if count > 1 else None
    sums = {name: functools.reduce(np.add, [part[name] for part in parts]) for name in _TERMS}
    return BoundSummary(
        bits_per_dim=float(total.mean()),
        standard_error=error,
        prior_bpd=float(prior.mean()),
        kl_bpd=float((total - prior - decoder).mean()),
        decoder_bpd=float(decoder.mean()),
        num_images=count,
        terms={name: value / count for name, value in sums.items()},
    )
