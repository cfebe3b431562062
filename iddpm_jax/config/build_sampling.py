"""From a configuration to what draws the sample grids during training."""

import ml_collections
import numpy as np
from jax.sharding import Mesh

from iddpm_jax import diffusion as dm
from iddpm_jax import models
from iddpm_jax.config.build_data import build_standardization
from iddpm_jax.config.build_diffusion import build_diffusion
from iddpm_jax.config.build_model import build_low_res
from iddpm_jax.data import Source
from iddpm_jax.data.image_batches import spread_indices
from iddpm_jax.distributed.mesh import make_mesh
from iddpm_jax.errors import UsageError
from iddpm_jax.sampling.generator import Generator
from iddpm_jax.sampling.previews import (
    Preview,
    class_layout,
    class_preview,
    super_resolution_preview,
)


def build_preview(
    config: ml_collections.ConfigDict, model: models.Network, source: Source, mesh: Mesh
) -> Preview:
    """What draws the sample grids: from parameters to a picture, with DDIM.

    `mesh` is that of training; the grids are drawn on the devices of one host.
    """
    count, seed, low_res = config.train.num_samples, config.train.seed, build_low_res(config)
    if count < 1:
        raise UsageError(f"train.num_samples={count} must be at least 1")
    generator = _generator(config, model, mesh)
    classes = config.model.num_classes
    if low_res is None:
        return class_preview(generator, class_layout(count, classes, source.class_names), seed)
    # Spread over the data, which may be sorted by class.
    shown = source.batch(spread_indices(len(source), min(count, len(source))))
    labels = shown["label"].astype(np.int32) if classes else None
    return super_resolution_preview(generator, low_res, shown["image"], labels, seed)


def _generator(config: ml_collections.ConfigDict, model: models.Network, mesh: Mesh) -> Generator:
    # As many images at a time as go through the network when it trains: what fits there fits here.
    at_a_time = (config.train.microbatch or config.train.batch_size) // mesh.devices.size
    mesh = make_mesh(mesh.local_devices)
    return Generator(
        d=build_diffusion(config, config.train.sample_respacing),
        model=model,
        params=None,  # A preview is given them when it draws.
        image_shape=(config.model.image_size,) * 2 + (config.model.in_channels,),
        mesh=mesh,
        sampler="ddim",
        batch_size=at_a_time * mesh.devices.size,
        standardization=build_standardization(config),
        x_T_stream=dm.Stream.PREVIEW_X_T,
    )
