"""From a recorded configuration to the model that a work directory holds."""

import functools
import pathlib
from typing import Any

import flax.linen as nn
import jax
import ml_collections

from iddpm_jax import diffusion as dm
from iddpm_jax import distributed, models
from iddpm_jax.config.build_data import build_source, build_standardization
from iddpm_jax.config.build_diffusion import build_betas, build_diffusion, is_continuous
from iddpm_jax.config.build_model import build_low_res, build_model, with_fast_convolutions
from iddpm_jax.config.record import run_identity
from iddpm_jax.distributed.mesh import make_mesh, replicated
from iddpm_jax.errors import UsageError
from iddpm_jax.files.respacing_table import searched_timesteps
from iddpm_jax.files.workdir import known_labels, read_labels
from iddpm_jax.sampling.trained_model import TrainedModel
from iddpm_jax.training.checkpoint_reader import load_params


def build_trained_model(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    ema: str = "",
    *,
    force_respacing: bool = False,
) -> TrainedModel:
    """The model of the newest checkpoint; arguments as of `iddpm_jax.load`."""
    ema = _average(config, ema, workdir)
    labels = known_labels(workdir)
    network = build_model(config)
    params, step = load_params(workdir, ema, _on_devices(network), run_identity(config, labels))
    distributed.check_same(step, "the checkpoint that they found")

    def respaced(respacing: str) -> dm.GaussianDiffusion:
        return build_diffusion(
            config,
            respacing,
            lambda count: searched_timesteps(workdir, count, step, ema, force=force_respacing),
        )

    classes = config.model.num_classes
    return TrainedModel(
        model=network,
        fast_model=with_fast_convolutions(network, make_mesh()),
        params=params,
        image_shape=(config.model.image_size,) * 2 + (config.model.in_channels,),
        low_res=build_low_res(config),
        num_classes=classes,
        null_label=classes if config.train.label_dropout else None,
        class_names=read_labels(workdir, classes),
        step=step,
        ema=ema,
        betas=None if is_continuous(config) else build_betas(config),
        standardization=build_standardization(config),
        build_diffusion=respaced,
        open_source=functools.partial(build_source, config, class_names=labels),
    )


def _average(config: ml_collections.ConfigDict, ema: str, workdir: pathlib.Path) -> str:
    """Which average of the parameters is meant; UsageError if the run has none such."""
    rates = [str(rate) for rate in config.train.ema_rate]
    ema = ema or (rates[0] if rates else "none")
    if ema not in (*rates, "none"):
        raise UsageError(f"ema={ema!r}: {workdir} has {', '.join((*rates, 'none'))}")
    return ema


def _on_devices(network: nn.Module) -> Any:
    """Shapes of the parameters, to be restored onto all devices."""
    sharding = replicated(make_mesh())
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        models.abstract_params(network),
    )
