"""Whether a configuration has every key and no other, with values of the right type and size."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections

from iddpm_jax.config import defaults
from iddpm_jax.errors import UsageError
from iddpm_jax.files.workdir import flatten

# Bounds of a number, of an item of a tuple and of the tuple's length; and of a text's length.
_LARGEST_NUMBER = 2**31 - 1
_LONGEST_TEXT = 4096
_LARGEST = {
    "model.image_size": 2**14,
    "model.small_size": 2**14,
    "model.num_channels": 2**14,
    "model.num_res_blocks": 2**7,
    "model.channel_mult": 2**7,
    "model.attention_resolutions": 2**14,
    "model.num_heads": 2**10,
    "model.num_heads_upsample": 2**10,
    "model.num_classes": 2**24,
    "diffusion.steps": 2**20,
    "train.ema_rate": 2**7,
    "train.num_samples": 2**20,
}

_TUPLE_ITEMS = {
    "model.channel_mult": int,
    "model.attention_resolutions": int,
    "data.mean": float,
    "data.std": float,
    "train.ema_rate": float,
}


def check_config(config: ml_collections.ConfigDict) -> None:
    """Raises UsageError for a key that is unknown or missing, or a value of another type or size.

    What values mean is checked where objects are built of them.
    """
    check_values(flatten(config.to_dict()))


def check_values(values: Mapping[str, Any]) -> None:
    """`check_config` for values by dotted key."""
    known = flatten(defaults.get_config().to_dict())
    if wrong := wrong_key(values, known):
        raise UsageError(wrong)
    for key, value in values.items():
        default = known[key]
        if default is None and value is not None:  # train.num_steps, which has no default.
            default = 1000
        if type(value) is not type(default) and not (type(default) is float and type(value) is int):
            raise UsageError(
                f"{key}={_short(value)} is of type {type(value).__name__}, "
                f"expected {type(default).__name__} such as {default!r}"
            )

    for key, item_type in _TUPLE_ITEMS.items():
        for item in values[key]:
            if type(item) is not item_type:
                raise UsageError(
                    f"{key}={_short(values[key])}: {_short(item)} is of type "
                    f"{type(item).__name__}, expected {item_type.__name__}"
                )
    _check_sizes(values)


def _check_sizes(values: Mapping[str, Any]) -> None:
    """UsageError for what would take for ever, or all memory, before anything could complain."""
    for key, value in values.items():
        largest = _LARGEST.get(key, _LARGEST_NUMBER)
        numbers = [*value, len(value)] if isinstance(value, tuple) else [value]
        if isinstance(value, str):
            numbers, largest = [len(value)], _LONGEST_TEXT
        if any(isinstance(number, int) and abs(number) > largest for number in numbers):
            raise UsageError(f"{key}={_short(value)} is beyond {largest}, the most that is allowed")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def wrong_key(values: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    """What to say of a key that values by dotted key have too much or lack; "" if there is none."""
    for key in sorted(values.keys() - known.keys()):
        return unknown_key_message(key, known)
    for key in sorted(known.keys() - values.keys()):
        return f"the configuration lacks {key}; see iddpm_jax/config/defaults.py"
    return ""


def unknown_key_message(key: str, known: Iterable[str]) -> str:
    """What to say of a key that does not exist, with those that look like it."""
    key = key[:80]
    close = difflib.get_close_matches(key, known, n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else "see iddpm_jax/config/defaults.py"
    return f"unknown configuration key {key!r}: {hint}"
