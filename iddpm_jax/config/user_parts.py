"""Schedules, networks and sources that the user's own code makes, checked before they are used.

Axis letters: B batch, H W image, h w small image, C channels, T timesteps.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from iddpm_jax import models
from iddpm_jax.config import user_code
from iddpm_jax.data import DataOptions, Source
from iddpm_jax.errors import UsageError

_SOURCE = ("__len__", "__getitem__", "batch", "image_shape", "class_names", "fingerprint")


def user_betas(name: str, num_timesteps: int) -> np.ndarray:
    """The schedule that a function of that name gives, float64 `[T]`.

    Raises:
      UsageError: it cannot be found, or gives anything but T numbers.
    """
    key = "diffusion.noise_schedule"
    given = np.asarray(user_code.find(key, name)(num_timesteps))
    if given.shape != (num_timesteps,) or not np.issubdtype(given.dtype, np.floating):
        raise UsageError(
            f"{key}={name!r} gives {given.dtype} of shape {given.shape}, expected floating-point "
            f"numbers of shape ({num_timesteps},)"
        )
    return given.astype(np.float64)


def schedule_digest(betas: np.ndarray) -> str:
    """16 hex digits that tell schedules apart; of six digits of β, the same on every machine."""
    return hashlib.sha256(",".join(f"{beta:.5e}" for beta in betas).encode()).hexdigest()[:16]


def user_network(
    name: str,
    *,
    image_size: int,
    in_channels: int,
    out_channels: int,
    num_classes: int | None,
    dtype: Any,
    small_size: int,
    **options: Any,
) -> nn.Module:
    """The network that a function of that name makes; docs/extending.md says what it has to be.

    Raises:
      UsageError: it cannot be found, or makes something that cannot be trained.
    """
    where = f"model.network={name!r}"
    network = user_code.find("model.network", name)(
        image_size=image_size,
        in_channels=in_channels,
        out_channels=out_channels,
        num_classes=num_classes,
        dtype=dtype,
        small_size=small_size,
        **options,
    )
    _check_attributes(where, network, {"num_classes": num_classes, "dtype": dtype})
    batch = 2
    image = (batch, image_size, image_size, in_channels)
    low_res = (batch, small_size, small_size, in_channels) if small_size else None
    output = _output(network, image, low_res, has_labels=bool(num_classes))
    expected = (*image[:-1], out_channels)
    if getattr(output, "shape", None) != expected or output.dtype != np.float32:
        raise UsageError(f"{where} gives {output}, expected float32 of shape {expected}")
    return network


def _check_attributes(where: str, network: Any, required: Mapping[str, Any]) -> None:
    """UsageError unless it is a hashable Flax module that keeps what it was given."""
    if not isinstance(network, nn.Module) or not hasattr(network, "init_params"):
        raise UsageError(
            f"{where} makes a {type(network).__name__}, expected a flax.linen.Module with a method "
            "init_params(key)"
        )
    for key, value in required.items():
        if getattr(network, key, "nothing") != value:
            raise UsageError(f"{where}: its attribute {key} has to be what it was given, {value}")
    try:
        hash(network)
    except TypeError:
        raise UsageError(f"{where}: its attributes must be tuples, not lists") from None


def _output(
    network: nn.Module,
    image: tuple[int, int, int, int],
    low_res: tuple[int, int, int, int] | None,
    has_labels: bool,
) -> Any:
    """Shape and dtype of what a network gives for images of shape `[B, H, W, C]`."""
    batch = image[0]
    shapes = {"x": image, "timesteps": (batch,), "low_res": low_res}
    inputs = {k: v and jax.ShapeDtypeStruct(v, np.float32) for k, v in shapes.items()}
    inputs["y"] = jax.ShapeDtypeStruct((batch,), np.int32) if has_labels else None
    return jax.eval_shape(
        lambda params, x, timesteps, y, low_res: network.apply(
            {"params": params},
            x,
            timesteps,
            y=y,
            low_res=low_res,
            train=True,
            rngs={"dropout": jax.random.wrap_key_data(jnp.zeros(2, jnp.uint32))},
        ),
        models.abstract_params(network),
        **inputs,
    )


def user_source(options: DataOptions) -> Source:
    """The source that the function `options.name` opens.

    Raises:
      UsageError: it cannot be found, or what it gives is no source.
    """
    name = options.name
    source = user_code.find("data.name", name)(options)
    missing = [part for part in _SOURCE if not hasattr(source, part)]
    if missing:
        raise UsageError(
            f"data.name={name!r} gives a {type(source).__name__}, which has no "
            f"{', '.join(missing)}: see docs/extending.md"
        )
    if not len(source):
        raise UsageError(f"data.name={name!r}: data.split={options.split!r} has no images")
    return source
