"""Enlarges images with a super-resolution model.

    python -m iddpm_jax.super_resolve --workdir=runs/digits_upsample --base_samples=samples.npz
    python -m iddpm_jax.super_resolve --workdir=runs/digits_upsample --images=FOLDER
    python -m iddpm_jax.super_resolve --workdir=runs/digits_upsample --base_workdir=runs/digits4

The last one is the cascade: it draws small samples first, into base/. A run that was stopped
continues when it is started again.
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import TYPE_CHECKING

from absl import flags

from iddpm_jax.cli import command, launch, shared_flags
from iddpm_jax.cli import sampling_flags as common
from iddpm_jax.cli.path_flag import define_path
from iddpm_jax.config.recipes import load_recorded
from iddpm_jax.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from iddpm_jax import trained
    from iddpm_jax.sampling.base_samples import BaseSamples
    from iddpm_jax.sampling.write_samples import Drawing

_SAMPLES = define_path(
    "base_samples", "npz of small images, as the sample command writes it, labels included."
)
_IMAGES = define_path("images", "Folder or archive of small images.")
_BASE = define_path("base_workdir", "Work directory of a model that draws small images: a cascade.")
_NUM = shared_flags.num_samples(
    0,
    "Number of images; 0: all there are, 64 of a cascade.",
    at_most=shared_flags.LARGEST_COUNT,
)
_NOISE = flags.DEFINE_float(
    "low_res_noise",
    None,
    "Standard deviation of noise on the small images; default: as the model was trained.",
    lower_bound=0.0,
    upper_bound=1.0,
)
_BASE_SAMPLER = flags.DEFINE_enum(
    "base_sampler", "ddpm", common.SAMPLER_NAMES, "Sampler of the cascade's base."
)
_BASE_RESPACING = flags.DEFINE_string("base_respacing", "", "Timesteps of the cascade's base.")
_BASE_EMA = flags.DEFINE_string("base_ema", "", "Averaged parameters of the cascade's base.")
_BASE_GUIDANCE = flags.DEFINE_float("base_guidance", 1.0, "Guidance of the cascade's base.")

_CASCADE_SAMPLES = 64
_GRID_SAMPLES = 24


def main() -> None:
    origins = {"base_samples": _SAMPLES, "images": _IMAGES, "base_workdir": _BASE}
    given = [name for name, flag in origins.items() if flag.value]
    if len(given) != 1:
        raise UsageError(
            f"give one of --{', --'.join(origins)}, not {' and '.join(given) or 'none'}"
        )
    load_recorded(pathlib.Path(common.WORKDIR.value))  # Refused before JAX is imported.

    from iddpm_jax import distributed, trained
    from iddpm_jax.cli import compilation_cache
    from iddpm_jax.files.output_directory import digest_of, lock_and_record
    from iddpm_jax.sampling.inputs import Inputs
    from iddpm_jax.sampling.super_resolution import comparison_grid
    from iddpm_jax.sampling.write_samples import Drawing, draw

    launch.join()
    workdir = pathlib.Path(common.WORKDIR.value).absolute()
    model = trained.load(
        common.WORKDIR.value,
        common.EMA.value,
        trust_code=common.TRUST_CODE.value,
        force_respacing=common.FORCE.value,
    )
    if model.low_res is None:
        raise UsageError(f"{workdir} holds no super-resolution model; use iddpm_jax.sample")
    if _NOISE.value is not None:
        changed = model.low_res._replace(noise=_NOISE.value)
        model = dataclasses.replace(model, low_res=changed)
    compilation_cache.enable(workdir.parent)
    generator = common.generator(model, common.SAMPLER.value or model.default_sampler)
    # What is read from files is known before, what a cascade draws goes into the directory.
    first = _load_base(model) if _BASE.value else None
    base = None if first else _read(model)
    count = len(base.images) if base else _NUM.value or _CASCADE_SAMPLES
    by_name = model if model.num_classes else first
    settings = common.settings(model, generator, count, by_name)
    settings["low_res_noise"] = model.low_res.noise
    labels = settings["labels"] if model.num_classes else None
    if model.num_classes or first is None:
        model.label_rule(settings["labels"])  # Checked before a cascade draws anything.
    if first:
        cascade = _cascade(first, settings)
        settings["base"] = cascade.settings
    else:
        settings["images"] = digest_of(*base)
        label_of = _label_rule(model, labels, base)
    out = pathlib.Path(common.OUT.value or common.default_out(settings, "super")).absolute()

    def grid(images: np.ndarray, _) -> np.ndarray:
        shown = images[:_GRID_SAMPLES]
        return comparison_grid(base.images[: len(shown)], shown)

    with lock_and_record(out, settings):
        if first:
            base = _draw_base(dataclasses.replace(cascade, out=out / "base"), model)
            label_of = _label_rule(model, labels, base)
        low_res_of = model.low_res_rule(base.images, settings["seed"])
        inputs = Inputs(labels=label_of, low_res=low_res_of)
        drawing = Drawing(model, generator, settings, out, inputs, common.PNG.value, grid)
        samples = draw(drawing, launch.peer_timeout())
    distributed.print_once(f"{count:,} samples: {samples}")
    distributed.print_once(f"low resolution, bilinear and result: {out / 'grid.png'}")
    distributed.finish()


def _label_rule(model: trained.TrainedModel, labels: list[int] | None, base: BaseSamples):
    """Sample numbers to labels: those that were asked for, or those of the small images."""
    import numpy as np

    if labels is not None or base.labels is None or not model.num_classes:
        model.check_low_res(base.images, labels)
        return model.label_rule(labels)
    model.label_rule(np.unique(base.labels))  # Checks that the model has such classes.
    last = len(base.labels) - 1
    return lambda indices: base.labels[np.minimum(indices, last)]


def _draw_base(cascade: Drawing, model: trained.TrainedModel) -> BaseSamples:
    from iddpm_jax.files.output_directory import lock_and_record
    from iddpm_jax.sampling.base_samples import read_npz
    from iddpm_jax.sampling.write_samples import draw

    with lock_and_record(cascade.out, cascade.settings):
        samples = draw(cascade, launch.peer_timeout())
    return read_npz(str(samples), 0, _small_shape(model))


def _small_shape(model: trained.TrainedModel) -> tuple[int, int, int]:
    return (model.low_res.size, model.low_res.size, model.image_shape[-1])


def _read(model: trained.TrainedModel) -> BaseSamples:
    """The images that were given, checked against the model."""
    from iddpm_jax.sampling.base_samples import read_folder, read_npz

    read = read_npz if _SAMPLES.value else read_folder
    base = read(_SAMPLES.value or _IMAGES.value, _NUM.value, _small_shape(model))
    if model.num_classes and base.labels is None and common.LABELS.value is None:
        raise UsageError(
            f"the model is class-conditional and {_SAMPLES.value or _IMAGES.value} has no labels: "
            "give --labels, which are taken in turn"
        )
    return base


def _load_base(model: trained.TrainedModel) -> trained.TrainedModel:
    """What draws the small samples of a cascade, checked against the model."""
    from iddpm_jax import trained

    base = trained.load(
        _BASE.value,
        _BASE_EMA.value,
        trust_code=common.TRUST_CODE.value,
        force_respacing=common.FORCE.value,
    )
    base.refuse_super_resolution("the base of a cascade")
    if base.image_shape != _small_shape(model):
        raise UsageError(
            f"--base_workdir={_BASE.value} draws images of (height, width, channels) "
            f"{base.image_shape}, but the model takes {_small_shape(model)}"
        )
    if model.num_classes and base.num_classes != model.num_classes and not common.LABELS.value:
        raise UsageError(
            f"the base model has {base.num_classes} classes and the super-resolution model "
            f"{model.num_classes}: give --labels"
        )
    return base


def _cascade(base: trained.TrainedModel, wanted: dict) -> Drawing:
    """How the small samples of a cascade are drawn, in a directory that is still to be named."""
    from iddpm_jax.sampling.inputs import Inputs
    from iddpm_jax.sampling.write_samples import Drawing

    generator = base.generator(
        _BASE_SAMPLER.value,
        _BASE_RESPACING.value,
        guidance=_BASE_GUIDANCE.value,
        batch_size=common.BATCH.value,
    )
    settings = {
        **base.identity(),
        "num_samples": wanted["num_samples"],
        "sampler": _BASE_SAMPLER.value,
        "respacing": base.respacing_name(_BASE_RESPACING.value),
        "labels": wanted["labels"] if base.num_classes else None,
        "guidance": _BASE_GUIDANCE.value,
        "clip_denoised": generator.clips,
        "seed": wanted["seed"],
        "rgb": False,
    }
    inputs = Inputs(labels=base.label_rule(settings["labels"]))
    return Drawing(base, generator, settings, pathlib.Path(), inputs, common.PNG.value)


run = command(main, required=["workdir"], continues=True)

if __name__ == "__main__":
    run()
