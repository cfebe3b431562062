"""Flags that the commands which draw images have in common, and what a run of them is."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any

from absl import flags

from iddpm_jax.cli import shared_flags
from iddpm_jax.cli.sampler_names import sampler_names
from iddpm_jax.errors import UsageError

if TYPE_CHECKING:
    from iddpm_jax.sampling.generator import Generator
    from iddpm_jax.sampling.trained_model import TrainedModel

SAMPLER_NAMES = sampler_names()
_LABELS_SHOWN = 5  # In the name of a directory, at most.

WORKDIR = shared_flags.workdir()
SAMPLER = flags.DEFINE_enum(
    "sampler",
    None,
    SAMPLER_NAMES,
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


def settings(
    model: TrainedModel,
    generator: Generator,
    num_samples: int,
    classes: TrainedModel | None = None,
) -> dict[str, Any]:
    """What the samples depend on: two runs that agree in this draw the same.

    What changes only speed, place or which pictures there are beside them is not part of it.
    `classes` is the model that knows the names in --labels, if that is another.
    """
    from iddpm_jax.cli.class_labels import label_numbers

    if RGB.value and model.image_shape[-1] != 1:
        raise UsageError(
            f"--rgb writes gray as RGB, and the model draws {model.image_shape[-1]} channels"
        )
    return {
        **model.identity(),
        "num_samples": num_samples,
        "sampler": generator.sampler,
        "respacing": model.respacing_name(RESPACING.value),
        "eta": ETA.value,
        "labels": label_numbers(LABELS.value, (classes or model).class_names),
        "guidance": GUIDANCE.value,
        "clip_denoised": generator.clips,
        "seed": SEED.value,
        "rgb": RGB.value,
    }


def generator(model: TrainedModel, sampler: str) -> Generator:
    """What draws as the flags say."""
    return model.generator(
        sampler,
        RESPACING.value,
        eta=ETA.value,
        guidance=GUIDANCE.value,
        clip_denoised=CLIP.value,
        batch_size=BATCH.value,
    )


def default_out(settings: dict[str, Any], kind: str = "") -> pathlib.Path:
    """Where inside the work directory a run goes, unless it is said."""
    from iddpm_jax.files.output_directory import default_directory

    labels = settings["labels"]
    parts = (
        kind,
        settings["sampler"],
        settings["respacing"] or "all",
        settings.get("num_samples"),
        f"eta{settings['eta']:g}" if settings["eta"] else "",
        f"guidance{settings['guidance']:g}" if settings["guidance"] != 1 else "",
        f"labels{'-'.join(map(str, labels))}" if labels and len(labels) <= _LABELS_SHOWN else "",
        f"seed{settings['seed']}" if "seed" in settings else "",
        f"step{settings['step']}",
    )
    return default_directory(WORKDIR.value, "samples", parts, settings)
