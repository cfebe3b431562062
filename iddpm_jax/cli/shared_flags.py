"""The flags that several commands have, each defined here and nowhere else.

A command has those that it defines, and shows them in its `--help` in that order:

    _EMA = shared_flags.ema()

A program may import several commands. They may then define a flag one after the other; the last
one's text and default hold.
"""

from typing import overload

from absl import flags

from iddpm_jax.cli.path_flag import define_path, define_required_path
from iddpm_jax.errors import UsageError

LARGEST_COUNT = 2**31 - 1  # Of samples: they are numbered in 32 bits, with a sign.
LARGEST_SEED = 2**32 - 1


def workdir(text: str = "Work directory of the trained model.") -> flags.FlagHolder[str]:
    return define_required_path("workdir", text)


def out(
    text: str = "Directory to write; default: inside the work directory.",
) -> flags.FlagHolder[str | None]:
    return define_path("out", text)


def data_dir(
    text: str = "Where the data are now, if they have moved.",
) -> flags.FlagHolder[str | None]:
    return define_path("data_dir", text)


def trust_code(whose: str = "the work directory's") -> flags.FlagHolder[bool]:
    text = f"Import the code that {whose} config.json names, if any."
    return flags.DEFINE_bool("trust_code", False, text, allow_override=True)


def ema() -> flags.FlagHolder[str]:
    text = "Rate of the averaged parameters, or none; default: first."
    return flags.DEFINE_string("ema", "", text, allow_override=True)


def respacing(text: str) -> flags.FlagHolder[str]:
    return flags.DEFINE_string("respacing", "", text, allow_override=True)


def force() -> flags.FlagHolder[bool]:
    text = "Take timesteps (dpN) that were searched for another step or EMA."
    return flags.DEFINE_bool("force", False, text, allow_override=True)


@overload
def clip_denoised(default: bool, text: str) -> flags.FlagHolder[bool]: ...
@overload
def clip_denoised(default: None, text: str) -> flags.FlagHolder[bool | None]: ...
def clip_denoised(default: bool | None, text: str) -> flags.FlagHolder[bool | None]:
    return flags.DEFINE_bool("clip_denoised", default, text, allow_override=True)


def seed(text: str = "Seed of the noise.") -> flags.FlagHolder[int]:
    return flags.DEFINE_integer(
        "seed", 0, text, lower_bound=0, upper_bound=LARGEST_SEED, allow_override=True
    )


def num_samples(
    default: int, text: str, *, at_least: int = 0, at_most: int | None = None
) -> flags.FlagHolder[int]:
    return flags.DEFINE_integer(
        "num_samples", default, text, at_least, at_most, allow_override=True
    )


def batch_size(
    text: str = "Images at a time.", *, at_most: int | None = None
) -> flags.FlagHolder[int]:
    return flags.DEFINE_integer("batch_size", 64, text, 1, at_most, allow_override=True)


def split(default: str, text: str) -> flags.FlagHolder[str]:
    return flags.DEFINE_string("split", default, text, allow_override=True)


def test_percent() -> flags.FlagHolder[float | None]:
    text = (
        "Share of a folder that is its test split; default: that of the run. Beyond it images were "
        "trained on."
    )
    return flags.DEFINE_float("test_percent", None, text, allow_override=True)


def refuse_empty_split(value: str) -> None:
    """UsageError for a --split that is given and names nothing."""
    if not value.strip():
        raise UsageError("--split is empty: name a part of the data, such as test or train")


flags.disclaim_key_flags()  # `--help` shows a flag as that of the command which calls this module.
