"""The variational bound over a set of images: computed batch by batch, and summed up.

Axis letters: B batch, N images in all, T diffusion steps.
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from iddpm_jax import diffusion as dm
from iddpm_jax.errors import UsageError
from iddpm_jax.evaluation.image_batches import ImageBatch
from iddpm_jax.processes import place

_TERMS = ("vb", "mse", "xstart_mse")


def make_bound(
    d: dm.GaussianDiffusion,
    model: nn.Module,
    params: Any,
    mesh: Mesh,
    *,
    seed: int,
    clip_denoised: bool = True,
    low_res: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
) -> Callable[[ImageBatch], dict[str, np.ndarray]]:
    """Builds a function from a batch to its part of the bound, one compiled scan over t.

    An image's noise depends on the seed and the image's number alone, not on its batch. For a
    super-resolution model, whose bound is that of an image given its smaller version, `low_res`
    makes that from images `[B, H, W, C]` and keys `[B]`.

    Returns:
      A function to float64 arrays: `total` and `prior` `[b]` and `decoder` `[b]` of the b
      images that count, in bits per dimension, and the sums over them of `vb`, `mse` and
      `xstart_mse` `[T]`, t = T-1 first.
    """
    rows = NamedSharding(mesh, PartitionSpec("data"))
    everywhere = NamedSharding(mesh, PartitionSpec())
    params = jax.device_put(params, everywhere)

    # The process and the seed are arguments, not constants, so that another of the same size
    # finds the program in the compilation cache.
    @functools.partial(jax.jit, out_shardings=everywhere)
    def bound(params, d, seed, indices, images, labels):
        keys = dm.stream_keys(seed, dm.Stream.NLL_NOISE, indices)
        small = None
        if low_res is not None:
            small = low_res(images, dm.stream_keys(seed, dm.Stream.NLL_LOW_RES, indices))

        def model_fn(x_t, timestep):
            return model.apply({"params": params}, x_t, timestep, y=labels, low_res=small)

        return dm.bpd_loop(d, model_fn, images, keys, clip_denoised=clip_denoised)

    def evaluate(batch: ImageBatch) -> dict[str, np.ndarray]:
        labels = batch.labels if model.num_classes else None
        inputs = place((batch.indices, batch.images, labels), rows)
        result = {
            name: np.asarray(value, np.float64)[batch.valid]
            for name, value in jax.device_get(bound(params, d, np.uint32(seed), *inputs)).items()
        }
        return {
            "total": result["total_bpd"],
            "prior": result["prior_bpd"],
            "decoder": result["vb"][:, -1],
            **{name: result[name].sum(axis=0) for name in _TERMS},
        }

    return evaluate


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
    terms = {name: sum(part[name] for part in parts) / count for name in _TERMS}
    return BoundSummary(
        bits_per_dim=float(total.mean()),
        standard_error=error,
        prior_bpd=float(prior.mean()),
        kl_bpd=float((total - prior - decoder).mean()),
        decoder_bpd=float(decoder.mean()),
        num_images=count,
        terms=terms,
    )
