"""Prepares data sets for training.

    python -m iddpm_jax.prepare_data cifar10

downloads and prepares a TFDS dataset, afterwards data.name="tfds:cifar10". And

    python -m iddpm_jax.prepare_data folder --source=imagenet/train --labels=directory \\
        --image_size=64 --out=data/imagenet64

packs the images of a folder or archive at one size into data/imagenet64/train, for
data.name="packed" and data.dir="data/imagenet64"; `imagenet_npz` packs the npz files of
down-sampled ImageNet, and `lsun` an LSUN lmdb. What was stopped continues.
"""

import os
import pathlib
import re

from absl import flags

from iddpm_jax.cli import command, shared_flags
from iddpm_jax.cli.flag_errors import command_argument
from iddpm_jax.cli.path_flag import define_path
from iddpm_jax.errors import UsageError

_DATA_DIR = shared_flags.data_dir("Data directory of TFDS; default: TFDS's own.")
_SOURCE = define_path("source", "Folder, archive, npz files or lmdb to pack.")
_OUT = shared_flags.out("Directory of the packed data set.")
_SPLIT = shared_flags.split("train", "Name of the split that is packed.")
_SIZE = flags.DEFINE_integer("image_size", 64, "Height and width of the images.", lower_bound=1)
_CHANNELS = flags.DEFINE_integer("channels", 3, "Channels.", lower_bound=1, upper_bound=4)
_LABELS = flags.DEFINE_enum(
    "labels", "none", ("prefix", "directory", "none"), "Classes of a folder's images."
)
_EXIF = flags.DEFINE_bool("exif", True, "Turn images as their EXIF orientation says.")
_THREADS = flags.DEFINE_integer("threads", os.cpu_count(), "Decoding threads.", lower_bound=1)

_PACKED = ("folder", "imagenet_npz", "lsun")


def main() -> None:
    if command_argument() in _PACKED:
        _pack(command_argument())
    else:
        _prepare_tfds(command_argument())


def _pack(kind: str) -> None:
    if not _SOURCE.value or not _OUT.value:
        raise UsageError(f"{kind} needs --source, what to pack, and --out, where to")
    source, size, channels = pathlib.Path(_SOURCE.value), _SIZE.value, _CHANNELS.value
    if not source.exists():
        raise UsageError(f"--source={source} does not exist")
    if not re.fullmatch(r"\w+", _SPLIT.value):
        raise UsageError(f"--split={_SPLIT.value!r} must be of letters, digits and underscores")
    if kind == "imagenet_npz" and channels != 3:
        raise UsageError(f"--channels={channels}: down-sampled ImageNet is RGB, 3 channels")
    from iddpm_jax.data import packing
    from iddpm_jax.data.packed_writer import PackedWriter
    from iddpm_jax.distributed.progress_bar import progress_bar

    if kind == "folder":
        origin = packing.folder_origin(source, size, channels, _LABELS.value, _EXIF.value)
    elif kind == "imagenet_npz":
        origin = packing.imagenet_npz_origin(source, size)
    else:
        origin = packing.lsun_origin(source, size, channels)
    record = packing.describe(
        kind, source.absolute(), [size, channels, _LABELS.value, _EXIF.value, origin.count], origin
    )
    folder = pathlib.Path(_OUT.value) / _SPLIT.value
    writer = PackedWriter(folder, (size, size, channels), record)
    if writer.seen:
        print(f"continuing after {writer.seen:,} images")
    with progress_bar(origin.count, writer.seen, "images") as bar:
        kept, bad = packing.pack(origin, writer, _THREADS.value, bar.update)
    print(f"{kept:,} images in {folder}" + (f"; {bad:,} were left out" if bad else ""))
    print(f'use it: --config.data.name=packed --config.data.dir="{_OUT.value}"')


def _prepare_tfds(name: str) -> None:
    from iddpm_jax.data.tfds_source import FILE_FORMAT, check_network, load_builder

    builder = load_builder(name, _DATA_DIR.value or "")
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


run = command(main, argument="DATASET", continues=True)

if __name__ == "__main__":
    run()
