"""The reference's own command line, as values of a configuration.

`--image_size 32 --num_channels 128 …` of its scripts `image_train.py` and `super_res_train.py`.
A flag of the network or the process that is not listed has the reference's default, as there; our
configuration's defaults are the same.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from iddpm_jax.config import defaults
from iddpm_jax.config.record import flat_config
from iddpm_jax.errors import UsageError

if TYPE_CHECKING:
    from iddpm_jax.models import Architecture

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
_SIZES = {False: {"image_size": 64}, True: {"large_size": 256, "small_size": 64}}
# What training goes on with: only what is listed is taken.
_TRAIN = {
    "batch_size": "train.batch_size",
    "lr": "train.lr",
    "weight_decay": "train.weight_decay",
    "lr_anneal_steps": "train.lr_anneal_steps",
    "schedule_sampler": "train.schedule_sampler",
    "log_interval": "train.log_every",
    "save_interval": "train.checkpoint_every",
}
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
_GUIDED = ("num_head_channels", "channel_mult", "resblock_updown", "use_new_attention_order")
_MAY_DIFFER = ("train.batch_size", "data.dir", "model.dtype")


class TorchFlags(NamedTuple):
    """A parsed command line.

    Attributes:
      values: configuration values by dotted key, the reference's defaults among them.
      listed: the keys that the line itself gives, and the flag that does.
      batch_size, microbatch: of one rank; None where they are not listed.
      notes: sentences about flags without effect.
    """

    values: dict[str, Any]
    listed: dict[str, str]
    batch_size: int | None = None
    microbatch: int | None = None
    notes: tuple[str, ...] = ()


def parse(text: str, arch: Architecture) -> TorchFlags:
    """Parses the flags of the run that a checkpoint of this architecture comes from.

    Raises:
      UsageError: a flag that is unknown, lacks its value, has one that is none of its, or
        contradicts what the shapes tell.
    """
    readings = {reading[1] for reading in arch.readings()}
    # Where the channels can be read both ways, the flags say which.
    named = any(f"--{name}" in text for name in _SIZES[True])
    super_resolution = readings == {True} or (True in readings and named)
    known = _types(super_resolution)
    given = {name: _value(name, word, known) for name, word in _pairs(text, super_resolution)}
    _check_class_cond(given.get("class_cond", False), arch)
    sizes = {name: given.get(name, size) for name, size in _SIZES[super_resolution].items()}
    image_size = sizes.get("image_size", sizes.get("large_size"))
    values = _defaults(_MODEL) | {"model.image_size": image_size}
    values["model.small_size"] = sizes.get("small_size", 0)
    listed = {key: name for name, key in (_MODEL | _TRAIN | _size_keys()).items() if name in given}
    values |= {key: given[name] for key, name in listed.items()}
    if super_resolution:
        # Its scripts do not hand this flag on to the process.
        values["diffusion.sigma_small"] = False
    values["model.attention_resolutions"] = _attention(given, arch, image_size)
    for name, (key, value) in _translated(given).items():
        values[key], listed[key] = value, name
    if given.get("data_dir"):
        values["data.name"] = "folder"  # Read as the reference reads it.
    notes = [f"--{n} {why}" for n, why in _WITHOUT_EFFECT.items() if given.get(n)]
    return TorchFlags(
        values, listed, given.get("batch_size"), given.get("microbatch"), tuple(notes)
    )


def merge(flags: TorchFlags, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Values of the flags and of --config.KEY=…, which must not contradict what is listed.

    Some may differ: the batch size of the flags is one rank's, the folder that of another machine,
    and half precision has two formats.
    """
    for key, name in flags.listed.items():
        ours = overrides.get(key, flags.values[key])
        if ours != flags.values[key] and key not in _MAY_DIFFER:
            raise UsageError(
                f"--model_flags has --{name} {flags.values[key]}, but --config.{key}={ours}"
            )
    return {**flags.values, **overrides}


def _types(super_resolution: bool) -> dict[str, type]:
    """Every flag that the program has, and the type of its value."""
    names = flat_config(defaults.get_config())
    types = {name: type(names[key]) for name, key in (_MODEL | _TRAIN).items()}
    return types | dict.fromkeys(_SIZES[super_resolution], int) | _OTHERS


def _defaults(names: Mapping[str, str]) -> dict[str, Any]:
    values = flat_config(defaults.get_config())
    return {key: values[key] for key in names.values()}


def _size_keys() -> dict[str, str]:
    sizes = dict.fromkeys(("image_size", "large_size"), "model.image_size")
    return sizes | {"small_size": "model.small_size"}


def _pairs(text: str, super_resolution: bool) -> list[tuple[str, str]]:
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
        _check_known(name, super_resolution)
        if not equals:
            if not words or words[0].startswith("--"):
                raise UsageError(f"--model_flags: --{name} has no value")
            value = words.pop(0)
        pairs.append((name, value))
    return pairs


def _check_known(name: str, super_resolution: bool) -> None:
    known = _types(super_resolution)
    if name in known:
        return
    if name in _SIZES[not super_resolution]:
        kind = "a" if super_resolution else "no"
        raise UsageError(f"--model_flags: --{name}, but the file is {kind} super-resolution model")
    if name in _GUIDED:
        raise UsageError(
            f"--model_flags: --{name} is a flag of guided-diffusion, whose defaults are others; "
            "give --config.KEY=… instead"
        )
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean --{close[0]}?" if close else ""
    raise UsageError(f"--model_flags: improved-diffusion has no flag --{name}{hint}")


def _value(name: str, word: str, types: Mapping[str, type]) -> Any:
    kind = types[name]
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


def _attention(given: Mapping[str, Any], arch: Architecture, size: int) -> tuple[int, ...]:
    """Sizes at which the network attends: those listed that it reaches, as there."""
    name = "attention_resolutions"
    listed = _numbers(name, given.get(name, "16,8"), int)
    factors = {size // width for width in listed} & {2**i for i in range(len(arch.channel_mult))}
    return tuple(size // factor for factor in sorted(factors))


def _translated(given: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    """Flags whose values we write otherwise: key and value by the flag's name."""
    found = {}
    if given.get("use_fp16"):
        found["use_fp16"] = ("model.dtype", "float16")
    if "ema_rate" in given:
        found["ema_rate"] = ("train.ema_rate", _numbers("ema_rate", given["ema_rate"], float))
    if given.get("data_dir"):
        found["data_dir"] = ("data.dir", given["data_dir"])
    return found
