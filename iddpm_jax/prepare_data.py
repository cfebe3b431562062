"""Prepares data sets for training.

    python -m iddpm_jax.prepare_data cifar10

downloads and prepares a TFDS dataset, afterwards data.name="tfds:cifar10". And

    python -m iddpm_jax.prepare_data folder --source=imagenet/train --labels=directory \\
        --image_size=64 --out=data/imagenet64

packs the images of a folder or archive at one size into data/imagenet64/train, for
data.name="packed" and data.dir="data/imagenet64"; `imagenet_npz` packs the npz files of
down-sampled ImageNet, and `lsun` an LSUN lmdb. What was stopped continues.
"""

import pathlib

from iddpm_jax.cli import command, shared_flags
from iddpm_jax.cli import packing_flags as flags
from iddpm_jax.cli.flag_errors import command_argument

_DATA_DIR = shared_flags.data_dir("Data directory of TFDS; default: TFDS's own.")


def main() -> None:
    if command_argument() in flags.KINDS:
        _pack(command_argument())
    else:
        from iddpm_jax.data.prepare import prepare_tfds

        prepare_tfds(command_argument(), _DATA_DIR.value or "")


def _pack(kind: str) -> None:
    source, out = flags.source_and_out(kind)
    from iddpm_jax.data.packing import pack
    from iddpm_jax.data.prepare import begin_packing
    from iddpm_jax.distributed.progress_bar import progress_bar

    folder = pathlib.Path(out) / flags.SPLIT.value
    origin, writer = begin_packing(
        kind,
        pathlib.Path(source),
        folder,
        image_size=flags.SIZE.value,
        channels=flags.CHANNELS.value,
        labels=flags.LABELS.value,
        exif=flags.EXIF.value,
    )
    if writer.seen:
        print(f"continuing after {writer.seen:,} images")
    with progress_bar(origin.count, writer.seen, "images") as bar:
        kept, bad = pack(origin, writer, flags.THREADS.value, bar.update)
    print(f"{kept:,} images in {folder}" + (f"; {bad:,} were left out" if bad else ""))
    print(f'use it: --config.data.name=packed --config.data.dir="{out}"')


run = command(main, argument="DATASET", continues=True)

if __name__ == "__main__":
    run()
