"""Which configuration a PyTorch checkpoint belongs to, as values by dotted key.

Shapes tell the architecture. A published checkpoint is recognised by it and has its recipe's
values; of any other, the user has to give what no shape tells.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from iddpm_jax.errors import UsageError
from iddpm_jax.models import Architecture, default_channel_mult, feature_sizes
from iddpm_jax.torch_io.published import PUBLISHED, named_in

Values = Mapping[str, Any]  # Of a configuration, by dotted key.

_NOT_IN_SHAPES = (
    "model.image_size",
    "model.num_heads",
    "model.dropout",
    "diffusion.steps",
    "diffusion.noise_schedule",
    "diffusion.rescale_timesteps",
    "diffusion.predict_xstart",
    "diffusion.use_kl",
)

# Keys that make a published checkpoint what it is, whatever it is trained on with.
_OF_THE_CHECKPOINT = ("model.", "diffusion.")


@dataclasses.dataclass(frozen=True)
class Given:
    """What the user says of a checkpoint.

    Attributes:
      whole: a whole configuration; None where none is given.
      values: single values, of --config.KEY=… and of the reference's own flags.
      preset: the name of a published checkpoint, or "".
      own_run: whether it is a file of somebody's training, as its name or the files beside it
        say, and so no published checkpoint.
      has_optimizer: whether the optimiser's state is imported with it.
      has_microbatch: whether flags say how many microbatches the run took in a step.
      has_attention_order: whether flags say how the file orders attention's projections.
    """

    whole: Values | None = None
    values: Values = dataclasses.field(default_factory=dict)
    preset: str = ""
    own_run: bool = False
    has_optimizer: bool = False
    has_microbatch: bool = False
    has_attention_order: bool = True


class Configurations(NamedTuple):
    """The configurations that there are.

    Attributes:
      defaults: every key with its default.
      recipe: gives the values of a recipe by its name.
    """

    defaults: Values
    recipe: Callable[[str], Values]


class Recognised(NamedTuple):
    """Values of a whole configuration, and the published checkpoint that it is of, or ""."""

    values: dict[str, Any]
    published: str


def recognise(
    arch: Architecture, path: pathlib.Path, given: Given, configurations: Configurations
) -> Recognised:
    """The configuration of the checkpoint in the file `path`.

    Raises:
      UsageError: the configuration contradicts the shapes, several published checkpoints have
        this architecture, or something that no shape tells is not given.
    """
    check_images(arch, path)
    if given.whole is not None:
        _check_shapes(given.whole, arch, path)
        _check_flags(given.whole, "", given, path)
        return Recognised(dict(given.whole), "")
    published = given.preset
    if not published and not given.own_run:
        published = _published(arch, path, given.values, configurations.recipe)
    if published:
        recipe = configurations.recipe(PUBLISHED[published].recipe)
        values = {**recipe, **given.values}
        # With another network or process it is some other training of that architecture.
        if any(recipe[k] != v for k, v in given.values.items() if k.startswith(_OF_THE_CHECKPOINT)):
            published = ""
        _check_shapes(values, arch, path)
        _check_flags(values, published, given, path)
        return Recognised(values, published)
    _check_complete(arch, path, given)
    values = {**configurations.defaults, **_values_of(arch, given.values), **given.values}
    _check_shapes(values, arch, path)
    return Recognised(values, "")


def check_images(arch: Architecture, path: pathlib.Path) -> None:
    """Raises UsageError for a network of something else than images."""
    if arch.dims != 2:
        raise UsageError(f"{path} is a network of {arch.dims}-D signals; images have 2 axes")
    if not arch.readings():
        raise UsageError(
            f"{path} is a network from {arch.input_channels} to {arch.output_channels} channels, "
            "which no image of 1 to 4 channels gives"
        )


def _published(
    arch: Architecture, path: pathlib.Path, values: Values, recipe: Callable[[str], Values]
) -> str:
    """The published checkpoint with this architecture, or "" where there is none."""
    candidates = [
        name
        for name, published in PUBLISHED.items()
        if not contradictions(arch, recipe(published.recipe))
    ]
    named = named_in(path, candidates)
    if named:
        return named
    if named_in(path, list(PUBLISHED)) or all(key in values for key in _NOT_IN_SHAPES):
        return ""  # Named as another one, or somebody's own training of the same network.
    if len(candidates) > 1:
        raise UsageError(
            f"{path} has the architecture of several published checkpoints: "
            f"{', '.join(candidates)}; say which with --preset=NAME, or give the --config that "
            "it was trained with"
        )
    return candidates[0] if candidates else ""


def contradictions(arch: Architecture, values: Values) -> list[str]:
    """One line for each key in which a configuration differs from the shapes."""
    small = values["model.small_size"] > 0
    wanted = (values["model.in_channels"], small, values["diffusion.learn_sigma"])
    channels, super_resolution, learned = (
        wanted if wanted in arch.readings() else arch.readings()[0]
    )
    found = _architecture_values(
        arch, values["model.image_size"], values["train.label_dropout"], channels, learned
    )
    mult = values["model.channel_mult"] or default_channel_mult(values["model.image_size"])
    attention = sorted(set(values["model.attention_resolutions"]), reverse=True)
    configured = {
        **values,
        "model.channel_mult": tuple(mult),
        "model.attention_resolutions": tuple(attention),
    }
    lines = [
        f"{key}: the file has {value!r}, the configuration {configured[key]!r}"
        for key, value in found.items()
        if value != configured[key]
    ]
    if super_resolution != small:
        kind = "a" if super_resolution else "no"
        lines.append(
            f"model.small_size: the file is {kind} super-resolution network, the configuration "
            f"has {values['model.small_size']}"
        )
    return lines


def _architecture_values(
    arch: Architecture, image_size: int, label_dropout: float, channels: int, learned: bool
) -> dict[str, Any]:
    """The configuration's values that shapes tell, where the channels are read in one way."""
    sizes = feature_sizes(image_size, len(arch.channel_mult), conv_resample=True)
    # Label dropout adds a class, the null class.
    null_class = arch.num_classes is not None and bool(label_dropout)
    values = {
        "model.num_channels": arch.model_channels,
        "model.num_res_blocks": arch.num_res_blocks,
        "model.channel_mult": arch.channel_mult,
        "model.attention_resolutions": tuple(
            sizes[factor.bit_length() - 1] for factor in sorted(arch.attention_resolutions)
        ),
        "model.num_classes": (arch.num_classes or 0) - null_class,
        "model.use_scale_shift_norm": arch.use_scale_shift_norm,
        "model.conv_resample": arch.conv_resample,
        "model.in_channels": channels,
        "diffusion.learn_sigma": learned,
    }
    if arch.conv_resample is None:  # Nothing is resampled.
        del values["model.conv_resample"]
    return values


def _check_shapes(values: Values, arch: Architecture, path: pathlib.Path) -> None:
    lines = contradictions(arch, values)
    if lines:
        raise UsageError(f"the configuration contradicts {path}:\n  " + "\n  ".join(lines))


def _values_of(arch: Architecture, values: Values) -> dict[str, Any]:
    channels, _, learned = _reading(arch, values)
    label_dropout = values.get("train.label_dropout", 0.0)
    return _architecture_values(arch, values["model.image_size"], label_dropout, channels, learned)


def _reading(arch: Architecture, values: Values) -> tuple[int, bool, bool]:
    """The way to read the channels that agrees with the values, or the first one."""
    agreeing = [
        reading
        for reading in arch.readings()
        if values.get("model.in_channels", reading[0]) == reading[0]
        and values.get("diffusion.learn_sigma", reading[2]) == reading[2]
    ]
    return (agreeing or arch.readings())[0]


def _check_complete(arch: Architecture, path: pathlib.Path, given: Given) -> None:
    """UsageError, listing keys and flags, where the values leave open what shapes do not tell."""
    wanted = list(_NOT_IN_SHAPES)
    if len(arch.readings()) > 1:
        wanted.append("model.in_channels")
    _, super_resolution, learned = _reading(arch, given.values)
    if super_resolution:
        wanted.append("model.small_size")
    wanted.append("diffusion.rescale_learned_sigmas" if learned else "diffusion.sigma_small")
    missing = [key for key in wanted if key not in given.values]
    flags = _missing_flags(given.values, "", given)
    if missing or flags:
        keys = " ".join(f"--config.{key}=…" for key in missing)
        either = (
            "Give the --config that it was trained with, the flags of improved-diffusion as "
            "--model_flags='--image_size 64 …', or these: "
        )
        raise UsageError(
            f"{path} is none of the published checkpoints, and shapes do not tell everything. "
            + (either if missing else "Give ")
            + "; ".join([keys] * bool(missing) + flags)
        )


def _check_flags(values: Values, published: str, given: Given, path: pathlib.Path) -> None:
    """UsageError where a whole configuration leaves open what only flags can say."""
    flags = _missing_flags(values, published, given)
    if flags:
        raise UsageError(f"{path}: neither shapes nor the configuration tell {'; '.join(flags)}")


def _missing_flags(values: Values, published: str, given: Given) -> list[str]:
    """The flags that have to be given with a configuration of these values, and are not."""
    flags = []
    if given.has_optimizer:
        if "train.batch_size" not in values:
            flags.append("--config.train.batch_size=… (over all ranks)")
        if not given.has_microbatch:
            flags.append(
                "--torch_microbatch=… (the run's --microbatch on each rank, with its --batch_size "
                "there as --torch_batch_size=…; -1 if it had none), on which the optimiser's state "
                "depends"
            )
    heads = {values.get("model.num_heads"), values.get("model.num_heads_upsample", -1)} - {-1}
    # A published checkpoint's order is known, and with one head all orders are one.
    if not published and not given.has_attention_order and heads != {1}:
        flags.append(
            "--attention_order=legacy (a file of improved-diffusion) or "
            "--attention_order=new (of guided-diffusion with use_new_attention_order)"
        )
    return flags
