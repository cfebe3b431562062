"""From a configuration to objects: the only reader of ConfigDict, with
`process_factory` and `data_factory`.

Everything is checked here, on the host, before anything compiles; every complaint is a
UsageError that names the key and its value.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from iddpm_jax import models, own_parts, processes
from iddpm_jax.configuration import MAY_CHANGE, identity
from iddpm_jax.data import Source, describe, facts_of, in_memory, make_batches
from iddpm_jax.data_factory import (
    build_source,
    build_standardization,
    check_images,
    measured,
    open_data,
    warn,
)
from iddpm_jax.errors import UsageError
from iddpm_jax.evaluation.image_batches import spread_indices
from iddpm_jax.evaluation.previews import Preview
from iddpm_jax.evaluation.super_resolution import SuperResolutionPreview
from iddpm_jax.process_factory import (
    build_betas,
    build_diffusion,
    build_process,
    build_timestep_sampler,
    is_continuous,
    with_schedule_digest,
)
from iddpm_jax.training import sharding
from iddpm_jax.training.loop import Training
from iddpm_jax.training.optimizer import linear_anneal, make_optimizer

__all__ = [
    "MAY_CHANGE",
    "build_betas",
    "build_diffusion",
    "build_low_res",
    "build_model",
    "build_optimizer",
    "build_process",
    "build_source",
    "build_standardization",
    "build_timestep_sampler",
    "build_training",
    "is_continuous",
]

_LARGEST = 1e30  # What is more would overflow float32 somewhere.

_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}

# By number of resolutions; 32 x 32 is the exception among the four.
_CHANNEL_MULTS = {
    1: (1,),
    2: (1, 2),
    3: (1, 2, 2),
    4: (1, 2, 3, 4),
    5: (1, 1, 2, 3, 4),
    6: (1, 1, 2, 2, 4, 4),
}


def default_channel_mult(image_size: int) -> tuple[int, ...]:
    """The reference's factors for 32, 64 and 256 pixels, and their like for other sizes.

    The network halves the image while it stays even and at least 4 wide (8 from 64 on).
    """
    if image_size == 32:
        return (1, 2, 2, 2)
    smallest = 8 if image_size >= 64 else 4
    levels, size = 1, image_size
    while size % 2 == 0 and size // 2 >= smallest and levels < max(_CHANNEL_MULTS):
        levels, size = levels + 1, size // 2
    return _CHANNEL_MULTS[levels]


def follow_image_size(config: ml_collections.ConfigDict, recipe_size: int) -> None:
    """Scales a recipe's attention resolutions where its image size was changed.

    That is: where the network no longer reaches one of them, and reaches all of them times the
    new size / `recipe_size`. A recipe of 8 × 8 images that attends at 4 attends at 8 of 16 × 16.
    """
    c = config.model
    before = tuple(c.attention_resolutions)
    if c.image_size == recipe_size or c.image_size < 1:
        return
    mult = tuple(c.channel_mult) or default_channel_mult(c.image_size)
    sizes = models.feature_sizes(c.image_size, len(mult), c.conv_resample)
    scaled = tuple(size * c.image_size // recipe_size for size in before)
    if not set(before) <= set(sizes) and set(scaled) <= set(sizes):
        c.attention_resolutions = scaled


def build_model(config: ml_collections.ConfigDict) -> models.UNet:
    """The network, checked against the image size."""
    c = config.model
    check_images(config)
    if c.num_res_blocks < 1:
        raise UsageError(f"model.num_res_blocks={c.num_res_blocks} must be at least 1")
    if c.dtype not in _DTYPES:
        raise UsageError(f"model.dtype={c.dtype!r}: choose one of {', '.join(_DTYPES)}")
    if not 0 <= c.small_size < c.image_size:
        raise UsageError(
            f"model.small_size={c.small_size} must be 0, or at least 1 and below "
            f"model.image_size={c.image_size}"
        )
    out_channels = c.in_channels * (2 if config.diffusion.learn_sigma else 1)
    if c.network:
        given = {"dtype": _DTYPES[c.dtype], "num_classes": _embedded_classes(config)}
        options = {**c.to_dict(), **given}
        return own_parts.own_network(options.pop("network"), out_channels=out_channels, **options)
    mult = tuple(c.channel_mult) or default_channel_mult(c.image_size)
    try:
        sizes = models.feature_sizes(c.image_size, len(mult), c.conv_resample)
    except ValueError as error:
        raise UsageError(
            f"model.image_size={c.image_size} with channel_mult={mult}: {error}"
        ) from None
    for size in c.attention_resolutions:
        if size not in sizes:
            raise UsageError(
                f"model.attention_resolutions={tuple(c.attention_resolutions)}: the network "
                f"never reaches {size}; its feature maps are {sizes} wide"
            )
    network = models.SuperResUNet if c.small_size else models.UNet
    return network(
        model_channels=c.num_channels,
        out_channels=out_channels,
        num_res_blocks=c.num_res_blocks,
        attention_resolutions=tuple(2 ** sizes.index(size) for size in c.attention_resolutions),
        dropout=c.dropout,
        channel_mult=mult,
        conv_resample=c.conv_resample,
        num_classes=_embedded_classes(config),
        use_checkpoint=c.use_checkpoint,
        num_heads=c.num_heads,
        num_heads_upsample=c.num_heads_upsample,
        use_scale_shift_norm=c.use_scale_shift_norm,
        dtype=_DTYPES[c.dtype],
        in_channels=c.in_channels,
        winograd=_one_cpu_device(),
    )


def _one_cpu_device() -> bool:
    """On several, Winograd's algorithm would sum more numbers over the devices than gradients."""
    return jax.default_backend() == "cpu" and jax.device_count() == 1


def _embedded_classes(config: ml_collections.ConfigDict) -> int | None:
    """Rows of the class embedding: the classes and, with label dropout, the null class."""
    classes, dropout = config.model.num_classes, config.train.label_dropout
    if not 0 <= dropout < 1:
        raise UsageError(f"train.label_dropout={dropout} must be in [0, 1)")
    if dropout and not classes:
        raise UsageError(f"train.label_dropout={dropout} needs labels, but model.num_classes=0")
    return (classes + bool(dropout)) or None


def build_learning_rate(config: ml_collections.ConfigDict):
    """The learning rate as a function of the step."""
    c = config.train
    if not 0 < c.lr < _LARGEST:
        raise UsageError(f"train.lr={c.lr} must be positive and below {_LARGEST}")
    if c.lr_anneal_steps < 0 or 0 < c.lr_anneal_steps < (c.num_steps or 0):
        raise UsageError(
            f"train.lr_anneal_steps={c.lr_anneal_steps} must be 0, or at least "
            f"train.num_steps={c.num_steps}: the learning rate would be 0 before the end"
        )
    return linear_anneal(c.lr, c.lr_anneal_steps)


def build_optimizer(config: ml_collections.ConfigDict):
    """AdamW with the averaged parameters in its state."""
    c = config.train
    for key in ("weight_decay", "grad_clip"):
        if not 0 <= c[key] < _LARGEST:
            raise UsageError(f"train.{key}={c[key]} must be from 0 to {_LARGEST}")
    return make_optimizer(
        build_learning_rate(config),
        weight_decay=c.weight_decay,
        grad_clip=c.grad_clip,
        ema_rates=tuple(c.ema_rate),
    )


def build_low_res(config: ml_collections.ConfigDict) -> models.LowRes | None:
    """What makes a super-resolution model's input from images; None for other models."""
    size, noise = config.model.small_size, config.train.low_res_noise
    if not 0 <= noise <= 1:
        raise UsageError(f"train.low_res_noise={noise} must be in [0, 1]")
    if noise and not size:
        raise UsageError(
            f"train.low_res_noise={noise} is for super-resolution, but model.small_size=0"
        )
    return models.LowRes(size, noise) if size else None


def build_preview(
    config: ml_collections.ConfigDict, model, source: Source, mesh
) -> Preview | SuperResolutionPreview:
    """What draws the sample grids during training, on the devices of one process.

    As many images at a time as go through the network when it trains: what fits there fits here.
    """
    count, low_res = config.train.num_samples, build_low_res(config)
    if count < 1:
        raise UsageError(f"train.num_samples={count} must be at least 1")
    at_a_time = (config.train.microbatch or config.train.batch_size) // mesh.devices.size
    mesh = sharding.make_mesh(mesh.local_devices)
    batch_size = at_a_time * mesh.devices.size
    d = build_diffusion(config, config.train.sample_respacing)
    standardization = build_standardization(config)
    if low_res is not None:
        # Spread over the data, which may be sorted by class.
        shown = source.batch(spread_indices(len(source), min(count, len(source))))
        return SuperResolutionPreview(
            d=d,
            model=model,
            low_res=low_res,
            originals=shown["image"],
            labels=shown["label"].astype(np.int32) if config.model.num_classes else None,
            seed=config.train.seed,
            mesh=mesh,
            standardization=standardization,
            batch_size=batch_size,
        )
    return Preview(
        d=d,
        model=model,
        image_shape=(config.model.image_size,) * 2 + (config.model.in_channels,),
        num_classes=config.model.num_classes,
        num_samples=count,
        class_names=source.class_names,
        seed=config.train.seed,
        mesh=mesh,
        standardization=standardization,
        batch_size=batch_size,
    )


def build_training(config: ml_collections.ConfigDict, class_names: Sequence[str] = ()) -> Training:
    """Everything that `training.loop.train` needs.

    `class_names` are those of the run that is continued, if there is one.
    """
    c = config.train
    _check_train(config)
    mesh = sharding.make_mesh()
    sharding.check_batch_size(c.batch_size, c.microbatch, mesh)
    # What the data are comes first: the network's sizes follow from it. Decoding them comes last.
    source = open_data(config, "", class_names)
    processes.check_same_everywhere(facts_of(source), "data")
    model, diffusion = build_model(config), build_process(config)
    source = in_memory(source, config.data.cache_mb)
    if jax.process_index() == 0:
        warn(config, source)
    config = with_schedule_digest(measured(config, source))
    preview = build_preview(config, model, source, mesh)
    return Training(
        config=config.to_dict(),
        identity=identity(config, source.class_names, source.fingerprint),
        diffusion=diffusion,
        model=model,
        optimizer=build_optimizer(config),
        learning_rate=build_learning_rate(config),
        timestep_sampler=build_timestep_sampler(config),
        low_res=build_low_res(config),
        standardize=build_standardization(config),
        batches=make_batches(
            source,
            batch_size=c.batch_size,
            seed=c.seed,
            random_flip=config.data.random_flip,
            num_workers=config.data.num_workers,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        ),
        mesh=mesh,
        image_shape=source.image_shape,
        class_names=source.class_names,
        found=describe(source),
        draw_samples=preview.make(),
        ema_rates=tuple(c.ema_rate),
        **{key: c[key] for key in _LOOP_KEYS},
    )


_LOOP_KEYS = (
    "num_steps",
    "batch_size",
    "microbatch",
    "seed",
    "label_dropout",
    "log_every",
    "checkpoint_every",
    "keep_checkpoints",
    "sample_every",
    "max_nonfinite_steps",
    "data_parallel",
    "shard_optimizer",
)


def _check_train(config: ml_collections.ConfigDict) -> None:
    c = config.train
    if c.num_steps is None:
        raise UsageError("train.num_steps is not set: say how long to train")
    for key in ("num_steps", "log_every", "checkpoint_every", "keep_checkpoints"):
        if c[key] < 1:
            raise UsageError(f"train.{key}={c[key]} must be at least 1")
    if c.max_nonfinite_steps < 1:
        raise UsageError(f"train.max_nonfinite_steps={c.max_nonfinite_steps} must be at least 1")
    if c.sample_every < 0 or config.data.num_workers < 0:
        raise UsageError(
            f"train.sample_every={c.sample_every} and data.num_workers="
            f"{config.data.num_workers} must not be negative"
        )
    if not 0 <= c.seed < 2**31:
        raise UsageError(f"train.seed={c.seed} must be in [0, 2**31)")
    if c.data_parallel not in ("jit", "pmap"):
        raise UsageError(f"train.data_parallel={c.data_parallel!r}: choose jit or pmap")
    if c.data_parallel == "pmap" and c.shard_optimizer:
        raise UsageError("train.shard_optimizer=True needs train.data_parallel='jit', not 'pmap'")
