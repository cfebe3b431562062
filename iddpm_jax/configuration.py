"""Configurations as values: checked, flat, and back from what a work directory recorded."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections

from iddpm_jax.config import defaults
from iddpm_jax.errors import UsageError
from iddpm_jax.training.workdir import flatten

_TUPLE_ITEMS = {
    "model.channel_mult": int,
    "model.attention_resolutions": int,
    "data.mean": float,
    "data.std": float,
    "train.ema_rate": float,
}


def check_config(config: ml_collections.ConfigDict) -> None:
    """Raises UsageError for a key that is unknown or missing, or a value of another type."""
    values, known = flat_config(config), flat_config(defaults.get_config())
    for key in sorted(values.keys() - known.keys()):
        raise UsageError(unknown_key_message(key, known))
    for key in sorted(known.keys() - values.keys()):
        raise UsageError(f"the configuration lacks {key}; start from iddpm_jax/config/defaults.py")
    for key, value in values.items():
        default = known[key]
        if default is None:  # A number that has to be said.
            default = 1000 if value is not None else None
        if type(value) is not type(default) and not (type(default) is float and type(value) is int):
            raise UsageError(
                f"{key}={value!r} is of type {type(value).__name__}, "
                f"expected {type(default).__name__} such as {default!r}"
            )

    for key, item_type in _TUPLE_ITEMS.items():
        for item in values[key]:
            if type(item) is not item_type:
                raise UsageError(
                    f"{key}={values[key]!r}: {item!r} is of type {type(item).__name__}, "
                    f"expected {item_type.__name__}"
                )


def unknown_key_message(key: str, known: Iterable[str]) -> str:
    """What to say of a key that does not exist, with those that look like it."""
    close = difflib.get_close_matches(key, known, n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else "see iddpm_jax/config/defaults.py"
    return f"unknown configuration key {key!r}: {hint}"


def flat_config(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """All values by dotted key."""
    return flatten(config.to_dict())


def config_from_dict(values: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """The configuration that `config.json` holds.

    A key that it lacks is one that this program has learned since, and has its default.

    Raises:
      UsageError: it has a key that this program does not know.
    """
    config = defaults.get_config()
    known = flat_config(config)
    for key, value in flatten(values).items():
        if key not in known:
            raise UsageError(f"config.json, of a newer version: {unknown_key_message(key, known)}")
        known[key] = tuple(value) if isinstance(value, list) else value
    config.update_from_flattened_dict(known)
    return config
