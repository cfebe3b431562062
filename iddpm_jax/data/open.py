"""Opens sources of images by name."""

import math
import os
from collections.abc import Callable

from iddpm_jax.data.folder import FolderSource, folder_source
from iddpm_jax.data.options import DataOptions
from iddpm_jax.data.packed import packed_source
from iddpm_jax.data.relabel import Relabelled, relabelled
from iddpm_jax.data.sources import Source, digits_source
from iddpm_jax.data.tfds_source import TfdsSource, tfds_source
from iddpm_jax.errors import UsageError


def load_source(options: DataOptions) -> Source:
    """Opens the source that `options` describes, with the labels of `options.class_names`.

    Raises:
      UsageError: there is no such source, it has no such split, or it cannot be read.
    """
    return in_memory(open_source(options), options.cache_mb)


def in_memory(source: Source, cache_mb: int) -> Source:
    """Decodes all images into memory, if they take at most `cache_mb` MiB there.

    A source without anything to decode is returned as it is.
    """
    if isinstance(source, Relabelled):
        return source.over(in_memory(source.source, cache_mb))
    if not isinstance(source, FolderSource | TfdsSource):
        return source
    fit = len(source) * math.prod(source.image_shape) <= cache_mb * 2**20
    return source.decoded() if fit else source


def open_source(
    options: DataOptions, opener: Callable[[DataOptions], Source] | None = None
) -> Source:
    """Like `load_source`, but decodes nothing, so that errors show at once.

    Args:
      opener: opens a user's own source instead.
    """
    where = f"data.name={options.name!r} in data.dir={options.dir!r}"
    return relabelled((opener or _open)(options), options.class_names, where)


def _open(options: DataOptions) -> Source:
    if options.name == "digits":
        if options.dir:
            raise UsageError(
                f"data.dir={options.dir!r}: digits come with scikit-learn; leave it out"
            )
        return digits_source(options.split, options.image_size)
    if options.name.startswith("tfds:"):
        return tfds_source(options)
    readers = {"folder": folder_source, "packed": packed_source}
    if options.name not in readers:
        raise UsageError(_unknown_name(options.name))
    if not options.dir:
        raise UsageError(f"data.name={options.name!r} needs data.dir, which says where images are")
    source = readers[options.name](options)
    if not len(source):
        raise UsageError(f"data.split={options.split!r} of {options.dir!r} has no images")
    return source


def _unknown_name(name: str) -> str:
    known = "digits, folder, packed, datasets of TFDS as tfds:NAME and your own as module:function"
    if name and os.path.exists(name):
        return (
            f"data.name={name!r} is a path: images in it are data.name='folder' with "
            f"data.dir={name!r}; data.name is one of {known}"
        )
    tfds = f"; if TFDS has a dataset {name!r}, it is data.name='tfds:{name}'" if name else ""
    return f"unknown data.name={name!r}: there are {known}{tfds}"
