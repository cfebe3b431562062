"""Which configuration a PyTorch checkpoint belongs to.

Shapes tell the architecture; a published checkpoint is recognised by it and brings its recipe's
flags; for any other, what no shape tells has to be given.
"""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from iddpm_jax.config import defaults
from iddpm_jax.config.build_model import default_channel_mult
from iddpm_jax.config.record import flat_config
from iddpm_jax.errors import UsageError
from iddpm_jax.models import Architecture, feature_sizes
from iddpm_jax.torch_io.published import PUBLISHED, named_in, recipe_config

Flat = Mapping[str, Any]  # Values by dotted key.

_UNTOLD = (
    "model.image_size",
    "model.num_heads",
    "model.dropout",
    "diffusion.steps",
    "diffusion.noise_schedule",
    "diffusion.rescale_timesteps",
    "diffusion.predict_xstart",
    "diffusion.use_kl",
)

# What a published checkpoint is, whatever it is trained on with.
_IS = ("model.", "diffusion.")


# What else has to be given, for these values of a published (or another) checkpoint: flags.
Asks = Callable[[Flat, bool], list[str]]


class Recognised(NamedTuple):
    """A configuration, and the published checkpoint that it is of, or ""."""

    config: Any
    published: str


def config_for(
    arch: Architecture,
    path: pathlib.Path,
    given: Any,
    overrides: Flat,
    preset: str = "",
    own_run: bool = False,
    asks: Asks = lambda values, published: [],
) -> Recognised:
    """The configuration of the checkpoint in the file `path`.

    Args:
      arch: what its shapes tell.
      given: a whole configuration that the user gave, or None.
      overrides: single values that the user gave, by dotted key.
      preset: name of a published checkpoint.
      own_run: whether it is a file of somebody's training, as its name or the files beside it
        say, and so no published checkpoint.
      asks: what the import wants to know besides, as flags.

    Raises:
      UsageError: the configuration contradicts the shapes, several published checkpoints have
        this architecture, or something that no shape tells is not given.
    """
    check_images(arch, path)
    if given is not None:
        return _answered(Recognised(_checked(given, arch, path), ""), path, asks)
    preset = preset or ("" if own_run else _recognise(arch, path, overrides))
    if preset:
        config = recipe_config(PUBLISHED[preset].recipe)
        recipe = flat_config(config)
        config.update_from_flattened_dict(dict(overrides))
        # With another network or process it is some other training of that architecture.
        same = all(recipe[key] == value for key, value in overrides.items() if key.startswith(_IS))
        found = Recognised(_checked(config, arch, path), preset if same else "")
        return _answered(found, path, asks)
    config = defaults.get_config()
    _check_nothing_missing(arch, path, overrides, asks(overrides, False))
    config.update_from_flattened_dict(_told(arch, overrides))
    config.update_from_flattened_dict(dict(overrides))
    return Recognised(_checked(config, arch, path), "")


def check_images(arch: Architecture, path: pathlib.Path) -> None:
    """Raises UsageError for a network of something else than images."""
    if arch.dims != 2:
        raise UsageError(f"{path} is a network of {arch.dims}-D signals; images have 2 axes")
    if not arch.readings():
        raise UsageError(
            f"{path} is a network from {arch.input_channels} to {arch.output_channels} channels, "
            "which no image of 1 to 4 channels gives"
        )


def _answered(found: Recognised, path: pathlib.Path, asks: Asks) -> Recognised:
    missing = asks(flat_config(found.config), bool(found.published))
    if missing:
        raise UsageError(f"{path}: neither shapes nor the configuration tell {'; '.join(missing)}")
    return found


def _recognise(arch: Architecture, path: pathlib.Path, overrides: Flat) -> str:
    """The published checkpoint with this architecture, or "" where there is none."""
    candidates = [
        name
        for name, published in PUBLISHED.items()
        if not contradictions(arch, flat_config(recipe_config(published.recipe)))
    ]
    named = named_in(path, candidates)
    if named:
        return named
    if named_in(path, list(PUBLISHED)) or all(key in overrides for key in _UNTOLD):
        return ""  # Named as another one, or somebody's own training of the same network.
    if len(candidates) > 1:
        raise UsageError(
            f"{path} has the architecture of several published checkpoints: "
            f"{', '.join(candidates)}; say which with --preset=NAME, or give the --config that "
            "it was trained with"
        )
    return candidates[0] if candidates else ""


def contradictions(arch: Architecture, values: Flat) -> list[str]:
    """One line for each key in which a configuration differs from the shapes."""
    image_size = values["model.image_size"]
    small = values["model.small_size"] > 0
    wanted = (values["model.in_channels"], small, values["diffusion.learn_sigma"])
    channels, super_resolution, learned = (
        wanted if wanted in arch.readings() else arch.readings()[0]
    )
    mult = tuple(values["model.channel_mult"]) or default_channel_mult(image_size)
    sizes = values["model.attention_resolutions"]
    pairs = {
        "model.num_channels": (arch.model_channels, values["model.num_channels"]),
        "model.num_res_blocks": (arch.num_res_blocks, values["model.num_res_blocks"]),
        "model.channel_mult": (arch.channel_mult, mult),
        "model.attention_resolutions": (
            _sizes(arch, image_size),
            tuple(sorted(set(sizes), reverse=True)),
        ),
        "model.num_classes": (
            _num_classes(arch, values["train.label_dropout"]),
            values["model.num_classes"],
        ),
        "model.use_scale_shift_norm": (
            arch.use_scale_shift_norm,
            values["model.use_scale_shift_norm"],
        ),
        "model.conv_resample": (
            values["model.conv_resample"] if arch.conv_resample is None else arch.conv_resample,
            values["model.conv_resample"],
        ),
        "model.in_channels": (channels, values["model.in_channels"]),
        "diffusion.learn_sigma": (learned, values["diffusion.learn_sigma"]),
    }
    lines = [
        f"{key}: the file has {told!r}, the configuration {has!r}"
        for key, (told, has) in pairs.items()
        if told != has
    ]
    if super_resolution != small:
        kind = "a" if super_resolution else "no"
        lines.append(
            f"model.small_size: the file is {kind} super-resolution network, the configuration "
            f"has {values['model.small_size']}"
        )
    return lines


def _num_classes(arch: Architecture, label_dropout: float) -> int:
    """Classes without the null class, which training with label dropout adds."""
    return (arch.num_classes or 0) - (arch.num_classes is not None and bool(label_dropout))


def _sizes(arch: Architecture, image_size: int) -> tuple[int, ...]:
    """Feature map sizes at which the network attends, largest first."""
    sizes = feature_sizes(image_size, len(arch.channel_mult), conv_resample=True)
    return tuple(sizes[factor.bit_length() - 1] for factor in sorted(arch.attention_resolutions))


def _checked(config: Any, arch: Architecture, path: pathlib.Path) -> Any:
    lines = contradictions(arch, flat_config(config))
    if lines:
        raise UsageError(f"the configuration contradicts {path}:\n  " + "\n  ".join(lines))
    return config


def _told(arch: Architecture, overrides: Flat) -> dict[str, Any]:
    """Configuration values that the shapes tell."""
    channels, _, learned = _reading(arch, overrides)
    told = {
        "model.num_channels": arch.model_channels,
        "model.num_res_blocks": arch.num_res_blocks,
        "model.channel_mult": arch.channel_mult,
        "model.attention_resolutions": _sizes(arch, overrides["model.image_size"]),
        "model.num_classes": _num_classes(arch, overrides.get("train.label_dropout", 0.0)),
        "model.use_scale_shift_norm": arch.use_scale_shift_norm,
        "model.in_channels": channels,
        "diffusion.learn_sigma": learned,
    }
    if arch.conv_resample is not None:
        told["model.conv_resample"] = arch.conv_resample
    return told


def _reading(arch: Architecture, overrides: Flat) -> tuple[int, bool, bool]:
    asked = [
        reading
        for reading in arch.readings()
        if overrides.get("model.in_channels", reading[0]) == reading[0]
        and overrides.get("diffusion.learn_sigma", reading[2]) == reading[2]
    ]
    return (asked or arch.readings())[0]


def _check_nothing_missing(
    arch: Architecture, path: pathlib.Path, overrides: Flat, also: list[str]
) -> None:
    wanted = list(_UNTOLD)
    readings = arch.readings()
    if len(readings) > 1:
        wanted.append("model.in_channels")
    _, super_resolution, learned = _reading(arch, overrides)
    if super_resolution:
        wanted.append("model.small_size")
    wanted.append("diffusion.rescale_learned_sigmas" if learned else "diffusion.sigma_small")
    missing = [key for key in wanted if key not in overrides]
    if missing or also:
        keys = " ".join(f"--config.{key}=…" for key in missing)
        either = (
            "Give the --config that it was trained with, the flags of improved-diffusion as "
            "--model_flags='--image_size 64 …', or these: "
        )
        raise UsageError(
            f"{path} is none of the published checkpoints, and shapes do not tell everything. "
            + (either if missing else "Give ")
            + "; ".join([keys] * bool(missing) + also)
        )
