"""Loading a trained model from its work directory: `iddpm_jax.load`."""

import functools

import jax

from iddpm_jax import diffusion as dm
from iddpm_jax import distributed, models
from iddpm_jax.cli import compilation_cache as persistent_cache
from iddpm_jax.config import own_code
from iddpm_jax.config.build_data import build_source, build_standardization
from iddpm_jax.config.build_diffusion import build_betas, build_diffusion, is_continuous
from iddpm_jax.config.build_model import build_low_res, build_model
from iddpm_jax.config.recipes import load_recorded
from iddpm_jax.config.record import flat_config, run_identity
from iddpm_jax.distributed.mesh import make_mesh, replicated
from iddpm_jax.errors import UsageError
from iddpm_jax.files.paths import local_path
from iddpm_jax.files.respacing_table import searched_timesteps
from iddpm_jax.files.workdir import known_labels, read_labels
from iddpm_jax.sampling.trained_model import TrainedModel
from iddpm_jax.training.checkpoints import load_params

__all__ = ["TrainedModel", "load"]


def load(
    workdir: str,
    ema: str = "",
    *,
    compilation_cache: bool = True,
    trust_code: bool = False,
    force_respacing: bool = False,
) -> TrainedModel:
    """Loads the newest checkpoint of a work directory.

    Args:
      workdir: what `main.py --workdir` wrote.
      ema: which average of the parameters: a rate of train.ema_rate, such as "0.9999"; empty
        for the first one; "none" for the parameters themselves.
      compilation_cache: keep what this process compiles in `.jax_cache` beside the work
        directory, as the commands do, where the next process finds it. A directory that JAX was
        told before (JAX_COMPILATION_CACHE_DIR, `jax_compilation_cache_dir`) stays; False leaves
        JAX as it is.
      trust_code: import the schedule, network or data of the user's own that config.json names
        (docs/extending.md). That runs code: say so for a directory whose origin you know.
      force_respacing: take timesteps that dp_respacing searched for another step or average.

    Returns:
      The model, its parameters on all devices.

    Raises:
      UsageError: it is no work directory, has no complete checkpoint, or no such average, or
        it names code and `trust_code` is False.
    """
    path = local_path(workdir, "workdir")
    config = load_recorded(path)
    values = flat_config(config)
    if not trust_code:
        own_code.refuse_untrusted(values, str(path / "config.json"))
    own_code.allow(values)
    rates = [str(rate) for rate in config.train.ema_rate]
    ema = ema or (rates[0] if rates else "none")
    if ema not in (*rates, "none"):
        raise UsageError(f"ema={ema!r}: {workdir} has {', '.join((*rates, 'none'))}")
    if compilation_cache:
        persistent_cache.enable(path.absolute().parent)
    model = build_model(config)
    everywhere = replicated(make_mesh())
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere),
        models.abstract_params(model),
    )
    params, step = load_params(path, ema, abstract, run_identity(config, known_labels(workdir)))
    distributed.check_same(step, "the checkpoint that they found")

    def respaced(respacing: str) -> dm.GaussianDiffusion:
        return build_diffusion(
            config,
            respacing,
            lambda count: searched_timesteps(path, count, step, ema, force=force_respacing),
        )

    classes = config.model.num_classes
    return TrainedModel(
        # A network of a user's own has no fast convolutions to do without.
        model=model.clone(winograd=False) if isinstance(model, models.UNet) else model,
        fast_model=model,
        params=params,
        image_shape=(config.model.image_size,) * 2 + (config.model.in_channels,),
        low_res=build_low_res(config),
        num_classes=classes,
        null_label=classes if config.train.label_dropout else None,
        class_names=read_labels(path, classes),
        step=step,
        ema=ema,
        betas=None if is_continuous(config) else build_betas(config),
        standardization=build_standardization(config),
        build_diffusion=respaced,
        open_source=functools.partial(build_source, config, class_names=known_labels(workdir)),
    )
