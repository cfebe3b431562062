"""Flags that the commands which draw images have in common, and what a run of them is."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any

from absl import flags

from iddpm_jax.cli.flag_errors import define_path
from iddpm_jax.errors import UsageError

if TYPE_CHECKING:
    from iddpm_jax.trained import TrainedModel

# Those of `evaluation.generation`, which `--help` does not wait for.
SAMPLER_NAMES = ("ddpm", "ddim", "dpm-solver++")

WORKDIR = define_path("workdir", "Work directory of the trained model.")
SAMPLER = flags.DEFINE_enum(
    "sampler",
    None,
    SAMPLER_NAMES,
    "How to go from noise to images; default: ddpm, in continuous time ddim.",
)
RESPACING = flags.DEFINE_string(
    "respacing",
    "",
    "Timesteps to use: 250, '10,15,20', ddim50, exact30 (any number, both ends included), "
    "logsnr20 (even in log-SNR; for dpm-solver++) or dp25 (searched by dp_respacing). Empty: all.",
)
ETA = flags.DEFINE_float("eta", 0.0, "Noise of ddim: 0 none, 1 that of ddpm.")
LABELS = flags.DEFINE_list(
    "labels",
    None,
    "Classes to draw, in turn; default: all in turn, or those of the images that are given.",
)
GUIDANCE = flags.DEFINE_float("guidance", 1.0, "Weight of classifier-free guidance; 1: none.")
EMA = flags.DEFINE_string("ema", "", "Rate of the averaged parameters, or none; default: first.")
SEED = flags.DEFINE_integer(
    "seed", 0, "Seed; sample i depends on it and on i alone.", lower_bound=0, upper_bound=2**32 - 1
)
BATCH = flags.DEFINE_integer(
    "batch_size", 64, "Samples drawn at a time.", lower_bound=1, upper_bound=2**31 - 1
)
OUT = define_path("out", "Directory to write; default: inside the work directory.")
PNG = flags.DEFINE_bool("png", False, "Also write one PNG for each sample.")
TRUST_CODE = flags.DEFINE_bool(
    "trust_code", False, "Import the code that the work directory's config.json names, if any."
)


def settings(
    model: TrainedModel, sampler: str, num_samples: int, batch_size: int
) -> dict[str, Any]:
    """What a run is: two that agree in this give the same files."""
    try:
        labels = None if LABELS.value is None else [int(label) for label in LABELS.value]
    except ValueError:
        raise UsageError(f"--labels={','.join(LABELS.value)}: give numbers, as in 0,1,2") from None
    return {
        "workdir": str(pathlib.Path(WORKDIR.value).absolute()),
        "step": model.step,
        "ema": model.ema,
        "num_samples": num_samples,
        "sampler": sampler,
        "respacing": model.respacing_name(RESPACING.value),
        "eta": ETA.value,
        "labels": labels,
        "guidance": GUIDANCE.value,
        "seed": SEED.value,
        "batch_size": batch_size,
        "png": PNG.value,
    }


def default_out(settings: dict[str, Any], kind: str = "") -> pathlib.Path:
    """Where inside the work directory a run goes, unless it is said."""
    steps = settings["respacing"].replace(",", "-") or "all"
    name = f"{kind}{settings['sampler']}_{steps}_seed{settings['seed']}_step{settings['step']}"
    return pathlib.Path(settings["workdir"]) / "samples" / name
