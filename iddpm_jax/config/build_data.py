"""From the `data.` section of a configuration to a source of images, checked against the model."""

import math
from collections.abc import Sequence

import ml_collections
import numpy as np
from absl import logging

from iddpm_jax.config import user_code, user_parts
from iddpm_jax.data import DataOptions, Source, hints, in_memory, open_source
from iddpm_jax.data.standardization import UNCHANGED, Standardization, measure
from iddpm_jax.errors import UsageError
from iddpm_jax.files.paths import local_path

_MEASURED_IMAGES = 10_000  # Spread over the data.


def check_images(config: ml_collections.ConfigDict) -> None:
    """Raises UsageError for images that no network takes."""
    c = config.model
    if c.image_size < 1:
        raise UsageError(f"model.image_size={c.image_size} must be at least 1")
    if not 1 <= c.in_channels <= 4:
        raise UsageError(f"model.in_channels={c.in_channels} must be 1 to 4")
    if c.num_classes < 0:
        raise UsageError(f"model.num_classes={c.num_classes} must be 0 (unconditional) or more")


def build_source(
    config: ml_collections.ConfigDict,
    split: str = "",
    class_names: Sequence[str] = (),
    *,
    data_dir: str | None = None,
    test_percent: float | None = None,
) -> Source:
    """The data, checked against the model.

    Args:
      split, data_dir, test_percent: override those of the configuration: a folder may have moved,
        and a test split be chosen after training, of which there is a warning.
      class_names: of the run that is continued, in the order of their labels.
    """
    source = open_data(config, split, class_names, data_dir, test_percent)
    return in_memory(source, config.data.cache_mb)


def open_data(
    config: ml_collections.ConfigDict,
    split: str,
    class_names: Sequence[str],
    data_dir: str | None = None,
    test_percent: float | None = None,
) -> Source:
    """Like `build_source`, but decodes nothing."""
    check_images(config)
    c = config.data
    if test_percent is not None and c.name != "folder":
        raise UsageError(f"test_percent={test_percent} is of folders, and data.name={c.name!r}")
    if test_percent is not None and test_percent > c.test_percent:
        logging.warning(
            "test_percent=%s is more than the run's data.test_percent=%s: images of the test split "
            "beyond that were trained on",
            test_percent,
            c.test_percent,
        )
    source = open_source(
        DataOptions(
            name=c.name,
            image_size=config.model.image_size,
            channels=config.model.in_channels,
            dir=_local(data_dir or c.dir),
            split=split or c.split,
            labels=c.labels if config.model.num_classes else "none",
            test_percent=c.test_percent if test_percent is None else test_percent,
            exif=c.exif,
            on_bad_image=c.on_bad_image,
            cache_mb=c.cache_mb,
            resize=c.resize,
            class_names=tuple(class_names),
        ),
        user_parts.user_source if user_code.names_code("data.name", c.name) else None,
    )
    size, channels = config.model.image_size, config.model.in_channels
    if source.image_shape != (size, size, channels):
        raise UsageError(
            f"data.name={config.data.name!r} has images of (height, width, channels) "
            f"{source.image_shape}, but model.image_size={size} and model.in_channels={channels}"
        )
    classes, limit = len(source.class_names), config.model.num_classes
    if limit and not classes:
        raise UsageError(f"model.num_classes={limit}, but {config.data.name!r} has no labels")
    if limit and classes > limit:
        raise UsageError(
            f"data.name={config.data.name!r} has labels 0 to {classes - 1}, "
            f"outside model.num_classes={limit}"
        )
    return source


def build_standardization(config: ml_collections.ConfigDict) -> Standardization:
    """The standardisation of images; UsageError if mean and deviation do not fit them."""
    c = config.data
    if not c.standardize:
        if c.mean or c.std:
            raise UsageError("data.mean and data.std have no effect without data.standardize=True")
        return UNCHANGED
    channels = config.model.in_channels
    if (
        len(c.mean) != channels
        or len(c.std) != channels
        or not (all(map(math.isfinite, (*c.mean, *c.std))) and all(s > 0 for s in c.std))
    ):
        raise UsageError(
            f"data.mean={tuple(c.mean)} and data.std={tuple(c.std)} must have a number for each of "
            f"{channels} channels, deviations above 0; leave both empty to measure them"
        )
    return Standardization(tuple(c.mean), tuple(c.std))


def measured(config: ml_collections.ConfigDict, source: Source) -> ml_collections.ConfigDict:
    """The configuration, with mean and deviation measured if it standardises and has none."""
    c = config.data
    if not c.standardize or c.mean or c.std:
        return config
    count = min(len(source), _MEASURED_IMAGES)
    batches = np.array_split(np.arange(count) * len(source) // count, -(-count // 1000))
    found = measure(source.batch(batch)["image"] for batch in batches)
    config = config.copy_and_resolve_references()
    config.data.mean, config.data.std = found
    return config


def warn(config: ml_collections.ConfigDict, source: Source) -> None:
    """Logs a warning for each thing that is probably a mistake in the data."""
    c = config.data
    for hint in hints(source, c.name, config.model.num_classes, c.random_flip):
        logging.warning("%s", hint)


def _local(directory: str) -> str:
    return str(local_path(directory, "data.dir")) if directory else ""
