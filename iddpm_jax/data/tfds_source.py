"""Prepared TFDS datasets, read without TensorFlow.

Axis letters: N images, B batch, H W C image.
"""

import os
import socket

import numpy as np

from iddpm_jax.data.decoding import decode_all
from iddpm_jax.data.images import fit_array
from iddpm_jax.data.options import DataOptions
from iddpm_jax.data.sources import InMemorySource, Item, Source, fingerprint_of
from iddpm_jax.data.splits import parse_split
from iddpm_jax.errors import UsageError

FILE_FORMAT = "array_record"
_HOST = ("storage.googleapis.com", 443)
_TIMEOUT = 5.0  # Seconds.


def load_builder(name: str, directory: str):
    """The builder of a TFDS dataset; UsageError if there is none of that name."""
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UsageError(
            f"data.name='tfds:{name}' needs TFDS: pip install tensorflow-datasets "
            "importlib_resources"
        ) from error
    try:
        return tfds.builder(name, data_dir=directory or None, file_format=FILE_FORMAT)
    except Exception as error:  # TFDS raises many kinds.
        raise UsageError(
            f"data.name='tfds:{name}' cannot be opened: {_first_line(error)}"
        ) from error


def check_network() -> None:
    """Raises UsageError where there is no network, which TFDS itself finds out after minutes."""
    if any(os.environ.get(name) for name in ("https_proxy", "HTTPS_PROXY", "all_proxy")):
        return
    try:
        socket.create_connection(_HOST, timeout=_TIMEOUT).close()
    except OSError as error:
        raise UsageError(
            f"there is no network: {_HOST[0]} cannot be reached ({error}). Prepare the dataset "
            "where there is one, and copy its directory or give it as --data_dir"
        ) from error


def tfds_source(options: DataOptions) -> Source:
    """Opens a split of a dataset that has been prepared.

    Raises:
      UsageError: it is unknown or not prepared, has no such split, or no images.
    """
    name = options.name.removeprefix("tfds:")
    builder = load_builder(name, options.dir)
    if not builder.is_prepared():
        where = f" --data_dir={options.dir}" if options.dir else ""
        raise UsageError(
            f"data.name={options.name!r} is not prepared: "
            f"python -m iddpm_jax.prepare_data {name}{where}"
        )
    bases = {parse_split(part)[0] for part in options.split.split("+")}
    splits = sorted(builder.info.splits)
    if not bases <= set(splits):
        raise UsageError(f"data.split={options.split!r}: {name} has {', '.join(splits)}")
    features = builder.info.features
    if "image" not in features:
        raise UsageError(f"data.name={options.name!r} has no images, but {', '.join(features)}")
    if options.labels == "none" or "label" not in features:
        class_names: tuple[str, ...] = ()
    else:
        class_names = tuple(features["label"].names)
    shape = features["image"].shape
    if None not in shape and not options.resize:
        wanted = (options.image_size, options.image_size, options.channels)
        if tuple(shape) != wanted:
            raise UsageError(
                f"data.name={options.name!r} has images of (height, width, channels) {shape}, but "
                f"the model takes {wanted}: model.image_size and model.in_channels say so; "
                "data.resize=True scales and crops them"
            )
    records = builder.as_data_source(split=options.split)
    fingerprint = fingerprint_of([builder.info.full_name, options.split, str(len(records))])
    return TfdsSource(records, class_names, options, fingerprint)


class TfdsSource:
    """Random access to the records of a TFDS data source."""

    def __init__(
        self, records, class_names: tuple[str, ...], options: DataOptions, fingerprint: str
    ):
        self._records, self.fingerprint = records, fingerprint
        self.class_names = class_names
        self.image_shape = (options.image_size, options.image_size, options.channels)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Item:
        record = self._records[int(index)]
        size, _, channels = self.image_shape
        label = record["label"] if self.class_names else 0
        return {"image": fit_array(record["image"], size, channels), "label": np.int32(label)}

    def batch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        items = [self[index] for index in indices]
        return {key: np.stack([item[key] for item in items]) for key in ("image", "label")}

    def decoded(self) -> InMemorySource:
        """All images in memory."""
        images = np.empty((len(self), *self.image_shape), np.uint8)
        labels = np.zeros(len(self), np.int32)

        def fill(index: int) -> None:
            item = self[index]
            images[index], labels[index] = item["image"], item["label"]

        decode_all(fill, len(self))
        return InMemorySource(images, labels, self.class_names, self.fingerprint)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
