"""Preparing a data set, as the prepare_data command does it."""

import pathlib

from iddpm_jax.data import packing
from iddpm_jax.data.packed_writer import PackedWriter
from iddpm_jax.data.packing import Origin
from iddpm_jax.data.tfds_source import FILE_FORMAT, check_network, load_builder
from iddpm_jax.errors import UsageError


def begin_packing(
    kind: str,
    source: pathlib.Path,
    folder: pathlib.Path,
    *,
    image_size: int,
    channels: int,
    labels: str,
    exif: bool,
) -> tuple[Origin, PackedWriter]:
    """The images of a data set, and what writes them, or those that are missing, into a folder.

    Args:
      kind: `folder`, `imagenet_npz` or `lsun`.
      source: what to pack.
      folder: of the split.
      labels: classes of a folder's images: `prefix`, `directory` or `none`.
      exif: turn a folder's images as their EXIF orientation says.

    Raises:
      UsageError: the source cannot be read, or the folder holds another split.
    """
    if kind == "folder":
        origin = packing.folder_origin(source, image_size, channels, labels, exif)
    elif kind == "imagenet_npz":
        origin = packing.imagenet_npz_origin(source, image_size)
    else:
        origin = packing.lsun_origin(source, image_size, channels)
    options = [image_size, channels, labels, exif, origin.count]
    record = packing.describe(kind, source.absolute(), options, origin)
    return origin, PackedWriter(folder, (image_size, image_size, channels), record)


def prepare_tfds(name: str, directory: str) -> None:
    """Downloads and prepares a TFDS dataset, unless it is there, and prints where it is.

    Args:
      directory: TFDS's data directory; "" for its own.

    Raises:
      UsageError: there is no such dataset, no TensorFlow or no network, or TFDS fails.
    """
    builder = load_builder(name, directory)
    if builder.is_prepared():
        print(f"{name} is prepared already: {builder.data_path}")
        return
    try:
        import tensorflow  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "preparing a TFDS dataset needs TensorFlow (reading it does not): "
            "pip install -r requirements-tfds.txt"
        ) from error
    check_network()
    try:
        builder.download_and_prepare(file_format=FILE_FORMAT)
    except Exception as error:  # TFDS raises many kinds.
        raise UsageError(
            f"{name} could not be prepared: {type(error).__name__}: {error}"
        ) from error
    print(f"{name} is prepared: {builder.data_path}")
    print(f"use it: --config.data.name=tfds:{name}")
