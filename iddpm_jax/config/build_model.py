"""From a configuration to the network, checked on the host before anything compiles."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from iddpm_jax import models
from iddpm_jax.config import user_parts
from iddpm_jax.config.build_data import check_images
from iddpm_jax.errors import UsageError
from iddpm_jax.models import winograd

_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}


def follow_image_size(config: ml_collections.ConfigDict, recipe_size: int) -> None:
    """Scales a recipe's attention resolutions where its image size was changed.

    That is: where the network no longer reaches one of them, and reaches all of them times the
    new size / `recipe_size`. A recipe of 8 × 8 images that attends at 4 attends at 8 of 16 × 16.
    """
    c = config.model
    before = tuple(c.attention_resolutions)
    if c.image_size == recipe_size or c.image_size < 1:
        return
    mult = tuple(c.channel_mult) or models.default_channel_mult(c.image_size)
    sizes = models.feature_sizes(c.image_size, len(mult), c.conv_resample)
    scaled = tuple(size * c.image_size // recipe_size for size in before)
    if not set(before) <= set(sizes) and set(scaled) <= set(sizes):
        c.attention_resolutions = scaled


def build_model(config: ml_collections.ConfigDict) -> nn.Module:
    """The network, a UNet or the user's own, checked against the image size."""
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
        options: dict[str, Any] = {**c.to_dict(), **given}
        return user_parts.user_network(options.pop("network"), out_channels=out_channels, **options)
    mult = tuple(c.channel_mult) or models.default_channel_mult(c.image_size)
    try:
        sizes = models.feature_sizes(c.image_size, len(mult), c.conv_resample)
    except UsageError as error:
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
    )


def with_fast_convolutions(model: nn.Module, mesh: jax.sharding.Mesh) -> nn.Module:
    """The network with the convolutions that are fastest on the devices that it is to run on.

    On one CPU device these are Winograd's, which have no forward-mode derivatives; on several they
    would sum more numbers over the devices than gradients. A network of a user's own that has no
    attribute `conv_general_dilated`, or has set it, stays what it is.
    """
    [*devices] = mesh.devices.flat
    has_default = getattr(model, "conv_general_dilated", None) is jax.lax.conv_general_dilated
    if not has_default or len(devices) > 1 or devices[0].platform != "cpu":
        return model
    return model.clone(conv_general_dilated=winograd.conv_general_dilated)


def _embedded_classes(config: ml_collections.ConfigDict) -> int | None:
    """Rows of the class embedding: the classes and, with label dropout, the null class."""
    classes, dropout = config.model.num_classes, config.train.label_dropout
    if not 0 <= dropout < 1:
        raise UsageError(f"train.label_dropout={dropout} must be in [0, 1)")
    if dropout and not classes:
        raise UsageError(f"train.label_dropout={dropout} needs labels, but model.num_classes=0")
    return (classes + bool(dropout)) or None


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
