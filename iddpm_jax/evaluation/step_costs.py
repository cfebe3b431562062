"""What each step of a process costs in bits/dim, measured on images.

Axis letters: B batch, H W C image, T diffusion steps.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from iddpm_jax import diffusion as dm
from iddpm_jax import models
from iddpm_jax.data.image_batches import ImageBatch
from iddpm_jax.distributed.mesh import batch_sharding, replicated
from iddpm_jax.errors import UsageError
from iddpm_jax.evaluation.bound import noise_and_network
from iddpm_jax.files.shards import Shards


def make_measure(
    d: dm.GaussianDiffusion,
    betas: np.ndarray,
    model: models.Network,
    params: Any,
    mesh: Mesh,
    *,
    seed: int,
    low_res: models.LowRes | None = None,
) -> Callable[..., dm.Costs]:
    """Builds a function `(batch, on_timestep) -> Costs` in float64, sums over the batch's images.

    Args:
      betas: the schedule of `d`, float64 `[T]`.
      seed: of the noise, which is that of the bound.
      low_res: what makes a super-resolution model's input.
    """
    on_all = replicated(mesh)
    params, tables = jax.device_put((params, dm.pair_tables(betas)), on_all)

    @functools.partial(jax.jit, out_shardings=on_all)
    def row(params, tables, images, labels, indices, weights, t):
        keys, model_fn = noise_and_network(model, params, seed, indices, images, labels, low_res)
        noise = dm.per_sample_noise(keys, t, images.shape[1:])
        return dm.transition_costs(d, tables, model_fn, images, t, noise, weights)

    prior = jax.jit(functools.partial(dm.prior_costs, d), out_shardings=on_all)

    def measure(batch: ImageBatch, on_timestep=lambda: None) -> dm.Costs:
        labels = batch.labels if model.num_classes else None
        images, labels, indices, weights = jax.device_put(
            (batch.images, labels, batch.indices, batch.valid.astype(np.float32)),
            batch_sharding(mesh),
        )
        found = []
        for t in range(d.num_timesteps):
            costs = row(params, tables, images, labels, indices, weights, np.int32(t))
            found.append(jax.device_get(costs))
            on_timestep()
        transition, decoder = (np.asarray(x, np.float64) for x in zip(*found, strict=True))
        return dm.Costs(transition, decoder, np.asarray(prior(images, weights), np.float64))

    return measure


def mean_costs(shards: Shards, num_timesteps: int) -> dm.Costs:
    """The costs of all shards, each of them the sums over `count` images, per image.

    Raises:
      UsageError: a shard holds something else, or there was no image.
    """
    square = (num_timesteps, num_timesteps)
    shapes = {"transition": square, "decoder": square, "prior": square[:1], "count": ()}
    sums: dict[str, np.ndarray] = {}
    for _, part in shards.read():
        if {name: value.shape for name, value in part.items()} != shapes:
            raise UsageError("what was left of a search is damaged: delete dp_respacing/shards")
        sums = {name: sums.get(name, 0.0) + value for name, value in part.items()}
    count = sums.pop("count")
    if not count:
        raise UsageError("there was no image that can be used")
    return dm.Costs(**{name: value / count for name, value in sums.items()})
