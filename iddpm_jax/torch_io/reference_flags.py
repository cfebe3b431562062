"""The command line of a run of improved-diffusion, as values of a configuration by dotted key.

`--image_size 32 --num_channels 128 …` of its scripts `image_train.py` and `super_res_train.py`.
A flag of the network or the process that the line does not give has the reference's default;
those of our configuration, which are handed in, are the same.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from iddpm_jax.errors import UsageError

if TYPE_CHECKING:
    from iddpm_jax.models import Architecture

# Flags and keys of the same values.
_MODEL = {
    "num_channels": "model.num_channels",
    "num_res_blocks": "model.num_res_blocks",
    "num_heads": "model.num_heads",
    "num_heads_upsample": "model.num_heads_upsample",
    "dropout": "model.dropout",
    "use_checkpoint": "model.use_checkpoint",
    "use_scale_shift_norm": "model.use_scale_shift_norm",
    "learn_sigma": "diffusion.learn_sigma",
    "sigma_small": "diffusion.sigma_small",
    "diffusion_steps": "diffusion.steps",
    "noise_schedule": "diffusion.noise_schedule",
    "use_kl": "diffusion.use_kl",
    "predict_xstart": "diffusion.predict_xstart",
    "rescale_timesteps": "diffusion.rescale_timesteps",
    "rescale_learned_sigmas": "diffusion.rescale_learned_sigmas",
}
# By whether the model is one for super-resolution: flags of sizes, and the reference's defaults.
_SIZES = {False: {"image_size": 64}, True: {"large_size": 256, "small_size": 64}}
_SIZE_KEYS = {
    "image_size": "model.image_size",
    "large_size": "model.image_size",
    "small_size": "model.small_size",
}
# What training goes on with: taken where the line gives it, without the reference's defaults.
_TRAIN = {
    "batch_size": "train.batch_size",
    "lr": "train.lr",
    "weight_decay": "train.weight_decay",
    "lr_anneal_steps": "train.lr_anneal_steps",
    "schedule_sampler": "train.schedule_sampler",
    "log_interval": "train.log_every",
    "save_interval": "train.checkpoint_every",
}
# Flags whose values have no key, or are written otherwise there.
_OTHERS = {
    "attention_resolutions": str,
    "class_cond": bool,
    "microbatch": int,
    "ema_rate": str,
    "use_fp16": bool,
    "data_dir": str,
    "timestep_respacing": str,
    "fp16_scale_growth": float,
    "resume_checkpoint": str,
}
_WITHOUT_EFFECT = {
    "timestep_respacing": "is of sampling: give it there, as --respacing",
    "fp16_scale_growth": "has no counterpart",
    "resume_checkpoint": "is what --checkpoint says",
}
_OF_GUIDED_DIFFUSION = (
    "num_head_channels",
    "channel_mult",
    "resblock_updown",
    "use_new_attention_order",
)
# Keys that --config.KEY=… may set to something else than the line: its batch size is one rank's,
# its folder that of another machine, and half precision has two formats.
_MAY_DIFFER = ("train.batch_size", "data.dir", "model.dtype")


class ReferenceFlags(NamedTuple):
    """A parsed command line.

    Attributes:
      values: configuration values by dotted key, the reference's defaults among them.
      given: the keys whose values the line gives, and the names of the flags that do.
      batch_size, microbatch: of one rank; None where the line does not give them.
      notes: sentences about flags without effect.
    """

    values: dict[str, Any]
    given: dict[str, str]
    batch_size: int | None = None
    microbatch: int | None = None
    notes: tuple[str, ...] = ()


def parse(text: str, arch: Architecture, defaults: Mapping[str, Any]) -> ReferenceFlags:
    """Parses the command line of the run that a checkpoint comes from.

    Args:
      text: flags as a shell takes them, `--name value` or `--name=value`.
      arch: the checkpoint's architecture.
      defaults: our configuration's default values by dotted key.

    Raises:
      UsageError: a flag is unknown, lacks its value, has one of another type, or contradicts the
        architecture.
    """
    super_resolution = _is_super_resolution(text, arch)
    types = {name: type(defaults[key]) for name, key in (_MODEL | _TRAIN).items()}
    types |= dict.fromkeys(_SIZES[super_resolution], int) | _OTHERS
    words = _pairs(text, types, super_resolution)
    flags = {name: _value(name, word, types[name]) for name, word in words}
    _check_class_cond(flags.get("class_cond", False), arch)
    sizes = {name: flags.get(name, size) for name, size in _SIZES[super_resolution].items()}
    image_size = sizes.get("image_size", sizes.get("large_size"))
    values = {key: defaults[key] for key in _MODEL.values()}
    values |= {"model.image_size": image_size, "model.small_size": sizes.get("small_size", 0)}
    given = {key: name for name, key in (_MODEL | _TRAIN | _SIZE_KEYS).items() if name in flags}
    values |= {key: flags[name] for key, name in given.items()}
    if super_resolution:
        # Its scripts do not hand this flag on to the process.
        values["diffusion.sigma_small"] = False
    values["model.attention_resolutions"] = _attention(flags, arch, image_size)
    for name, (key, value) in _rewritten(flags).items():
        values[key], given[key] = value, name
    if flags.get("data_dir"):
        values["data.name"] = "folder"  # Read as the reference reads it.
    notes = tuple(f"--{name} {why}" for name, why in _WITHOUT_EFFECT.items() if flags.get(name))
    return ReferenceFlags(values, given, flags.get("batch_size"), flags.get("microbatch"), notes)


def _is_super_resolution(text: str, arch: Architecture) -> bool:
    """Whether the line is of `super_res_train.py`; where the channels allow both, its flags say."""
    possible = {reading[1] for reading in arch.readings()}
    named = any(f"--{name}" in text for name in _SIZES[True])
    return possible == {True} or (True in possible and named)


def merge(flags: ReferenceFlags, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Values of the command line and of --config.KEY=…, by dotted key.

    Raises:
      UsageError: the two give one key different values.
    """
    for key, name in flags.given.items():
        ours = overrides.get(key, flags.values[key])
        if ours != flags.values[key] and key not in _MAY_DIFFER:
            raise UsageError(
                f"--model_flags has --{name} {flags.values[key]}, but --config.{key}={ours}"
            )
    return {**flags.values, **overrides}


def _pairs(text: str, types: Mapping[str, type], super_resolution: bool) -> list[tuple[str, str]]:
    """Names and values of `--name value` and `--name=value`."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"--model_flags: {error}") from None
    pairs = []
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            raise UsageError(f"--model_flags: {word!r} is no flag; write '--name value'")
        name, equals, value = word[2:].partition("=")
        if name not in types:
            raise UsageError(f"--model_flags: {_unknown(name, types, super_resolution)}")
        if not equals:
            if not words or words[0].startswith("--"):
                raise UsageError(f"--model_flags: --{name} has no value")
            value = words.pop(0)
        pairs.append((name, value))
    return pairs


def _unknown(name: str, types: Mapping[str, type], super_resolution: bool) -> str:
    """What to say of a flag that the script does not have."""
    if name in _SIZES[not super_resolution]:
        kind = "a" if super_resolution else "no"
        return f"--{name}, but the file is {kind} super-resolution model"
    if name in _OF_GUIDED_DIFFUSION:
        return (
            f"--{name} is a flag of guided-diffusion, whose defaults are others; "
            "give --config.KEY=… instead"
        )
    close = difflib.get_close_matches(name, types, n=1)
    hint = f"; did you mean --{close[0]}?" if close else ""
    return f"improved-diffusion has no flag --{name}{hint}"


def _value(name: str, word: str, kind: type) -> Any:
    try:
        return _boolean(word) if kind is bool else kind(word)
    except ValueError:
        wanted = {bool: "True or False", int: "a whole number", float: "a number"}[kind]
        raise UsageError(f"--model_flags: --{name} {word!r} should be {wanted}") from None


def _boolean(word: str) -> bool:
    """As the reference's `str2bool`."""
    if word.lower() in ("yes", "true", "t", "y", "1"):
        return True
    if word.lower() in ("no", "false", "f", "n", "0"):
        return False
    raise ValueError


def _numbers(name: str, text: str, kind: type) -> tuple:
    try:
        numbers = tuple(kind(word) for word in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) <= 0:
        raise UsageError(f"--model_flags: --{name} {text!r} should be numbers with commas between")
    return numbers


def _check_class_cond(class_cond: bool, arch: Architecture) -> None:
    if class_cond != (arch.num_classes is not None):
        has = f"{arch.num_classes} classes" if arch.num_classes is not None else "no classes"
        raise UsageError(f"--model_flags: class_cond is {class_cond}, but the file has {has}")


def _attention(flags: Mapping[str, Any], arch: Architecture, size: int) -> tuple[int, ...]:
    """Sizes of the feature maps at which the network attends: of those in the flag what it has."""
    name = "attention_resolutions"
    asked = _numbers(name, flags.get(name, "16,8"), int)
    factors = {size // width for width in asked} & {2**i for i in range(len(arch.channel_mult))}
    return tuple(size // factor for factor in sorted(factors))


def _rewritten(flags: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    """Flags whose values we write otherwise: key and value by the flag's name."""
    found: dict[str, tuple[str, Any]] = {}
    if flags.get("use_fp16"):
        found["use_fp16"] = ("model.dtype", "float16")
    if "ema_rate" in flags:
        found["ema_rate"] = ("train.ema_rate", _numbers("ema_rate", flags["ema_rate"], float))
    if flags.get("data_dir"):
        found["data_dir"] = ("data.dir", flags["data_dir"])
    return found
