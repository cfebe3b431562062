"""Configurations as values: checked, flat, and back from what a work directory recorded."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ml_collections

from iddpm_jax.config import defaults
from iddpm_jax.errors import UsageError
from iddpm_jax.training.identity import RunIdentity
from iddpm_jax.training.workdir import flatten

# Keys in which a run may differ when it is continued: they do not change what is learned.
# train.data_parallel is none: under pmap every device draws dropout of its own.
MAY_CHANGE = frozenset(
    {
        "data.dir",
        "data.num_workers",
        "data.cache_mb",
        "data.may_change",
        "train.shard_optimizer",
        "train.num_steps",
        "train.log_every",
        "train.checkpoint_every",
        "train.keep_checkpoints",
        "train.sample_every",
        "train.num_samples",
        "train.sample_respacing",
        "train.max_nonfinite_steps",
    }
)

# No value of a configuration is larger, nor an item or the length of a list.
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


def unknown_key_message(key: str, known: Iterable[str]) -> str:
    """What to say of a key that does not exist, with those that look like it."""
    key = key[:80]
    close = difflib.get_close_matches(key, known, n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else "see iddpm_jax/config/defaults.py"
    return f"unknown configuration key {key!r}: {hint}"


def flat_config(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """All values by dotted key."""
    return flatten(config.to_dict())


def identity(
    config: ml_collections.ConfigDict,
    class_names: Sequence[str] | None = None,
    fingerprint: str = "",
) -> RunIdentity:
    """Which run a configuration and what its data have say; the arguments as `RunIdentity` has."""
    return RunIdentity(
        config=config.to_dict(),
        class_names=None if class_names is None else tuple(class_names),
        fingerprint=fingerprint,
        may_change=MAY_CHANGE,
        defaults=defaults.get_config().to_dict(),
        data_may_change=config.data.may_change,
    )


def config_from_dict(values: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """The configuration that `config.json` holds.

    A key that it lacks is one that this program has learned since, and has its default.

    Raises:
      UsageError: it has a key that this program does not know, or a value of another type.
    """
    config = defaults.get_config()
    known = flat_config(config)
    for key, value in flatten(values).items():
        if key not in known:
            raise UsageError(f"config.json, of a newer version: {unknown_key_message(key, known)}")
        known[key] = tuple(value) if isinstance(value, list) else value
    with config.ignore_type():  # The message is ours.
        config.update_from_flattened_dict(known)
    check_config(config)
    return config
