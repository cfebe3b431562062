"""Flags of the prepare_data command: what is packed, as what, and where to."""

import os
import pathlib
import re

from absl import flags

from iddpm_jax.cli import shared_flags
from iddpm_jax.cli.path_flag import define_path
from iddpm_jax.errors import UsageError

KINDS = ("folder", "imagenet_npz", "lsun")  # What can be packed.

SOURCE = define_path("source", "Folder, archive, npz files or lmdb to pack.")
OUT = shared_flags.out("Directory of the packed data set.")
SPLIT = shared_flags.split("train", "Name of the split that is packed.")
SIZE = flags.DEFINE_integer("image_size", 64, "Height and width of the images.", lower_bound=1)
CHANNELS = flags.DEFINE_integer("channels", 3, "Channels.", lower_bound=1, upper_bound=4)
LABELS = flags.DEFINE_enum(
    "labels", "none", ("prefix", "directory", "none"), "Classes of a folder's images."
)
EXIF = flags.DEFINE_bool("exif", True, "Turn images as their EXIF orientation says.")
THREADS = flags.DEFINE_integer("threads", os.cpu_count() or 1, "Decoding threads.", lower_bound=1)


def source_and_out(kind: str) -> tuple[str, str]:
    """What to pack and where to; UsageError where the flags are not what such a data set needs."""
    source, out = SOURCE.value, OUT.value
    if not source or not out:
        raise UsageError(f"{kind} needs --source, what to pack, and --out, where to")
    if not pathlib.Path(source).exists():
        raise UsageError(f"--source={source} does not exist")
    if not re.fullmatch(r"\w+", SPLIT.value):
        raise UsageError(f"--split={SPLIT.value!r} must be of letters, digits and underscores")
    if kind == "imagenet_npz" and CHANNELS.value != 3:
        raise UsageError(f"--channels={CHANNELS.value}: down-sampled ImageNet is RGB, 3 channels")
    return source, out
