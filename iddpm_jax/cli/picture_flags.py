"""Flags of the pictures that the sample command draws beside its samples, or instead of them."""

from absl import flags

from iddpm_jax.cli import shared_flags
from iddpm_jax.errors import UsageError

STEPS = flags.DEFINE_integer(
    "show_steps",
    0,
    "Also write steps.png: the reverse process at that many moments.",
    lower_bound=0,
)
GIF = flags.DEFINE_bool("gif", False, "Also write steps.gif: the reverse process as a film.")
FORWARD = flags.DEFINE_bool(
    "forward_strip", False, "Also write forward.png: real images on their way to noise."
)
DATA_DIR = shared_flags.data_dir("Where those real images are now, if they have moved.")
INVERT = flags.DEFINE_list(
    "invert",
    None,
    "Image files. Draws nothing, but encodes them into noise by DDIM, decodes that again, and "
    "tells the error. A class-conditional model needs their --labels.",
)
INTERPOLATE = flags.DEFINE_list(
    "interpolate",
    None,
    "Two seeds. Draws nothing but interpolation.png: from the image of one seed's noise to that "
    "of the other's, a row for each label.",
)


def inverted_images() -> list[str] | None:
    """The files of --invert, if it is given; UsageError where it is empty."""
    if INVERT.value is not None and not all(INVERT.value or [""]):
        raise UsageError("--invert is empty: name image files")
    return INVERT.value


def interpolated_seeds() -> tuple[int, int] | None:
    """The seeds of --interpolate, if it is given; UsageError unless they are two."""
    if INTERPOLATE.value is None:
        return None
    largest = shared_flags.LARGEST_SEED
    seeds = [int(text) if text.isdecimal() else -1 for text in INTERPOLATE.value]
    if len(seeds) != 2 or not all(0 <= seed <= largest for seed in seeds):
        given = ",".join(INTERPOLATE.value)
        raise UsageError(f"--interpolate={given}: give two seeds from 0 to {largest}, as in 0,1")
    if INVERT.value:
        raise UsageError("--invert and --interpolate are two things; give one of them")
    return seeds[0], seeds[1]
