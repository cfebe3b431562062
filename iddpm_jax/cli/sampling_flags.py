"""Flags that the commands which draw images have in common."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any

from absl import flags

from iddpm_jax.cli import shared_flags
from iddpm_jax.cli.sampler_names import sampler_names
from iddpm_jax.config.recipes import load_recorded

if TYPE_CHECKING:
    from iddpm_jax.sampling.options import SamplingOptions

WORKDIR = shared_flags.workdir()
SAMPLER = flags.DEFINE_enum(
    "sampler",
    None,
    sampler_names(),
    "How to go from noise to images; default: ddpm, in continuous time ddim.",
)
RESPACING = shared_flags.respacing(
    "Timesteps to use: 250 or '10,15,20' (in equal sections), as in the reference; ddimN (a "
    "stride, as ddim50); exactN, also called linspaceN (any number, both ends included); leadingN "
    "and trailingN (those of diffusers' DDPM and DDIM schedulers); logsnrN (even in log-SNR; for "
    "dpm-solver++); dpN (searched by dp_respacing). Empty: all."
)
ETA = flags.DEFINE_float("eta", 0.0, "Noise of ddim: 0 none, 1 that of ddpm.")
LABELS = flags.DEFINE_list(
    "labels",
    None,
    "Classes to draw, in turn, by number or by name (what can be a number is one); default: all in "
    "turn, or those of the images that are given.",
)
GUIDANCE = flags.DEFINE_float("guidance", 1.0, "Weight of classifier-free guidance; 1: none.")
EMA = shared_flags.ema()
SEED = shared_flags.seed("Seed; sample i depends on it and on i alone.")
BATCH = shared_flags.batch_size("Samples drawn at a time.", at_most=shared_flags.LARGEST_COUNT)
OUT = shared_flags.out()
CLIP = shared_flags.clip_denoised(
    None,
    "Clip the predicted x_0 to [-1, 1] at every step; default: unless the model is one of "
    "standardised images.",
)
FORCE = shared_flags.force()
RGB = flags.DEFINE_bool(
    "rgb",
    False,
    "Write samples of a gray model with three equal channels, as OpenAI's evaluator wants them.",
)
PNG = flags.DEFINE_bool("png", False, "Also write one PNG for each sample.")
TRUST_CODE = shared_flags.trust_code()


def refuse_other_directories() -> None:
    """UsageError unless --workdir is a work directory; does not import JAX."""
    load_recorded(pathlib.Path(WORKDIR.value))


def load_arguments() -> dict[str, Any]:
    """The model that the flags name, as arguments of `iddpm_jax.load`."""
    return {
        "workdir": WORKDIR.value,
        "ema": EMA.value,
        "trust_code": TRUST_CODE.value,
        "force_respacing": FORCE.value,
    }


def sampling_options() -> SamplingOptions:
    """How samples are drawn, and where they go, as the flags say."""
    from iddpm_jax.sampling.options import SamplingOptions

    return SamplingOptions(
        workdir=WORKDIR.value,
        out=OUT.value,
        sampler=SAMPLER.value,
        respacing=RESPACING.value,
        eta=ETA.value,
        labels=LABELS.value,
        guidance=GUIDANCE.value,
        seed=SEED.value,
        clip_denoised=CLIP.value,
        rgb=RGB.value,
        batch_size=BATCH.value,
        png=PNG.value,
    )
