"""A configuration as values by dotted key, as what identifies a run, and back from config.json."""

from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from iddpm_jax.config import defaults
from iddpm_jax.config.check import check_values, wrong_key
from iddpm_jax.errors import UsageError
from iddpm_jax.files.workdir import flatten
from iddpm_jax.training.identity import RunIdentity

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


def flat_config(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """All values by dotted key."""
    return flatten(config.to_dict())


def run_identity(
    config: ml_collections.ConfigDict,
    class_names: Sequence[str] | None = None,
    fingerprint: str = "",
) -> RunIdentity:
    """What identifies the run of a configuration.

    Args:
      class_names, fingerprint: of its data, as `RunIdentity` has them.
    """
    return RunIdentity(
        config=config.to_dict(),
        class_names=None if class_names is None else tuple(class_names),
        fingerprint=fingerprint,
        may_change=MAY_CHANGE,
        data_may_change=config.data.may_change,
    )


def config_from_values(values: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """The configuration that has these values by dotted key; the inverse of `flat_config`.

    Raises:
      UsageError: a key is unknown or missing, or a value of another type.
    """
    check_values(values)
    config = defaults.get_config()
    with config.ignore_type():  # An int is allowed where a float is expected.
        config.update_from_flattened_dict(values)
    return config


def config_from_dict(values: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """The configuration that `config.json` holds: nested dicts, with lists for tuples.

    It has to have every key: a default that stands in for one today may be another tomorrow.

    Raises:
      UsageError: a key is unknown or missing, or a value of another type.
    """
    flat = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in flatten(values).items()
    }
    if wrong := wrong_key(flat, flat_config(defaults.get_config())):
        raise UsageError(f"config.json is of another version of this program: {wrong}")
    return config_from_values(flat)
