"""Draws samples from a trained model.

    python -m iddpm_jax.sample --workdir=runs/digits --num_samples=64

A run that was stopped continues when it is started again.
"""

import pathlib
import sys
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from absl import app, flags, logging

from iddpm_jax import compilation_cache, pictures, trained
from iddpm_jax.evaluation.generation import SAMPLERS, batch_size_for, draw_batches
from iddpm_jax.evaluation.grids import class_grid, save_png
from iddpm_jax.evaluation.shards import ShardedSamples, claim
from iddpm_jax.progress_bar import progress_bar

_WORKDIR = flags.DEFINE_string("workdir", None, "Work directory of the trained model.")
_NUM = flags.DEFINE_integer("num_samples", 64, "Number of samples.", lower_bound=1)
_SAMPLER = flags.DEFINE_enum(
    "sampler", None, list(SAMPLERS), "How to go from noise to images; default: ddpm."
)
_RESPACING = flags.DEFINE_string(
    "respacing",
    "",
    "Timesteps to use: 250, '10,15,20', ddim50, exact30 (any number, both ends included), "
    "logsnr20 (even in log-SNR; for dpm-solver++) or dp25 (searched by dp_respacing). Empty: all.",
)
_ETA = flags.DEFINE_float("eta", 0.0, "Noise of ddim: 0 none, 1 that of ddpm.")
_LABELS = flags.DEFINE_list("labels", None, "Classes to draw, in turn; default: all in turn.")
_GUIDANCE = flags.DEFINE_float("guidance", 1.0, "Weight of classifier-free guidance; 1: none.")
_EMA = flags.DEFINE_string("ema", "", "Rate of the averaged parameters, or none; default: first.")
_SEED = flags.DEFINE_integer(
    "seed", 0, "Seed; sample i depends on it and on i alone.", lower_bound=0, upper_bound=2**32 - 1
)
_BATCH = flags.DEFINE_integer("batch_size", 64, "Samples drawn at a time.", lower_bound=1)
_OUT = flags.DEFINE_string("out", None, "Directory to write; default: inside the work directory.")
_PNG = flags.DEFINE_bool("png", False, "Also write one PNG for each sample.")

_STEPS = flags.DEFINE_integer(
    "show_steps",
    0,
    "Also write steps.png: the reverse process at that many moments.",
    lower_bound=0,
)
_GIF = flags.DEFINE_bool("gif", False, "Also write steps.gif: the reverse process as a film.")
_FORWARD = flags.DEFINE_bool(
    "forward_strip", False, "Also write forward.png: real images on their way to noise."
)
_INVERT = flags.DEFINE_list(
    "invert",
    None,
    "Image files. Draws nothing, but encodes them into noise by DDIM, decodes that again, and "
    "tells the error. A class-conditional model needs their --labels.",
)
_INTERPOLATE = flags.DEFINE_list(
    "interpolate",
    None,
    "Two seeds. Draws nothing but interpolation.png: from the image of one seed's noise to that "
    "of the other's, a row for each label.",
)

_GRID_SAMPLES = 100


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"error: {argv[1]!r} is not a flag; see python -m iddpm_jax.sample --help")
    try:
        model = trained.load(_WORKDIR.value, _EMA.value)
        generator = model.generator(_sampler(), _RESPACING.value, _ETA.value, _GUIDANCE.value)
        settings = _settings(model, batch_size_for(_NUM.value, _BATCH.value, generator.mesh))
        label_of = model.label_rule(settings["labels"])
        out = pathlib.Path(_OUT.value or _default_out(settings)).absolute()
        compilation_cache.enable(pathlib.Path(_WORKDIR.value).absolute().parent)
        options = pictures.Options(
            model, generator, settings["labels"], _GUIDANCE.value, _SEED.value, out
        )
        if _INVERT.value or _INTERPOLATE.value:
            _pictures_alone(options, settings)
            return
        if _STEPS.value > generator.d.num_timesteps:
            raise ValueError(
                f"--show_steps={_STEPS.value} is more than {generator.d.num_timesteps} steps"
            )
        samples = ShardedSamples(out, settings)
        if not samples.complete:
            _draw(model, generator, label_of, samples, settings["batch_size"])
        print(f"{settings['num_samples']:,} samples: {samples.result}")
        print(f"grid: {out / 'grid.png'}")
        if _STEPS.value:
            print(f"reverse process: {pictures.write_steps(options, _STEPS.value)}")
        if _GIF.value:
            print(f"film: {pictures.write_film(options)}")
        if _FORWARD.value:
            print(f"forward process: {pictures.write_forward(options)}")
    except ValueError as error:
        sys.exit(f"error: {error}")


def _sampler() -> str:
    """What was asked for; by default ddpm, or ddim where noise on the way would not do."""
    alone = _INVERT.value or _INTERPOLATE.value
    sampler = _SAMPLER.value or ("ddim" if alone else "ddpm")
    if _INVERT.value and (sampler != "ddim" or _ETA.value):
        raise ValueError(f"--invert goes by ddim with eta=0, not by {sampler} with {_ETA.value}")
    return sampler


def _pictures_alone(options: pictures.Options, settings: dict) -> None:
    if _INVERT.value and _INTERPOLATE.value:
        raise ValueError("--invert and --interpolate are two things; give one of them")
    if _INTERPOLATE.value:
        try:
            first, second = map(int, _INTERPOLATE.value)
        except ValueError:
            given = ",".join(_INTERPOLATE.value)
            raise ValueError(f"--interpolate={given}: give two seeds, as in 0,1") from None
        claim(options.out, {**settings, "interpolate": [first, second]})
        print(f"interpolation: {pictures.write_interpolation(options, (first, second))}")
        return
    # Before the directory is claimed, so that a file that cannot be read leaves nothing.
    images = pictures.read_images(options, _INVERT.value)
    claim(options.out, {**settings, "invert": _INVERT.value})
    errors = pictures.write_inversion(options, images)
    for path, error in zip(_INVERT.value, errors, strict=True):
        print(f"{path}: root mean square error {error:.2f} of 255")
    print(f"originals and reconstructions: {options.out / 'inversion.png'}")


def _settings(model: trained.TrainedModel, batch_size: int) -> dict:
    """What a sampling run is: two that agree in this give the same files."""
    try:
        labels = None if _LABELS.value is None else [int(label) for label in _LABELS.value]
    except ValueError:
        raise ValueError(f"--labels={','.join(_LABELS.value)}: give numbers, as in 0,1,2") from None
    return {
        "workdir": str(pathlib.Path(_WORKDIR.value).absolute()),
        "step": model.step,
        "ema": model.ema,
        "num_samples": _NUM.value,
        "sampler": _sampler(),
        "respacing": model.respacing_name(_RESPACING.value),
        "eta": _ETA.value,
        "labels": labels,
        "guidance": _GUIDANCE.value,
        "seed": _SEED.value,
        "batch_size": batch_size,
        "png": _PNG.value,
    }


def _default_out(settings: dict) -> str:
    steps = settings["respacing"].replace(",", "-") or "all"
    kind = "invert_" if _INVERT.value else "interpolate_" if _INTERPOLATE.value else ""
    name = f"{kind}{settings['sampler']}_{steps}_seed{settings['seed']}_step{settings['step']}"
    return str(pathlib.Path(settings["workdir"]) / "samples" / name)


def _draw(model, generator, label_of, samples: ShardedSamples, size: int) -> None:
    """Draws what is missing; files are written while the next batch is drawn."""
    first, parts = samples.count(), len(generator.parts())
    batches = draw_batches(
        generator,
        _NUM.value,
        label_of,
        seed=_SEED.value,
        guidance=_GUIDANCE.value,
        batch_size=size,
        first_batch=first,
        on_part=lambda: bar.update(min(size / parts, bar.total - bar.n)),
    )
    if first:
        print(f"continuing after {first} finished batches of {size}")
    with (
        progress_bar(_NUM.value, min(first * size, _NUM.value), "samples") as bar,
        ThreadPoolExecutor(1) as writer,
    ):
        pending = None
        for number, batch in enumerate(batches, start=first):
            if pending is not None:
                pending.result()
            pending = writer.submit(_write_batch, model, samples, number, *batch)
        if pending is not None:
            pending.result()
    _write_grid(model, samples)
    samples.finish(_NUM.value)


def _write_batch(model, samples: ShardedSamples, number: int, indices, labels, images) -> None:
    images = jax.device_get(images)
    if _PNG.value:
        for i, image in enumerate(images):
            kind = "" if labels is None else f"_{model.class_names[labels[i]]}"
            shown = np.squeeze(image, -1) if image.shape[-1] == 1 else image
            save_png(samples.directory / "png" / f"{indices[i]:06d}{kind}.png", shown)
    samples.write(number, images, labels)


def _write_grid(model, samples: ShardedSamples) -> None:
    """`grid.png` of the first samples, a row for each class that is among them."""
    images, labels, have = [], [], 0
    for part, part_labels in samples.read():
        images.append(part)
        labels.append(part_labels)
        have += len(part)
        if have >= _GRID_SAMPLES:
            break
    images = np.concatenate(images)[:_GRID_SAMPLES]
    labels = None if labels[0] is None else np.concatenate(labels)[:_GRID_SAMPLES]
    save_png(samples.directory / "grid.png", class_grid(images, labels, model.class_names))


def run() -> None:
    """The command line."""
    logging.set_verbosity(logging.WARNING)
    flags.mark_flag_as_required("workdir")
    app.run(main)


if __name__ == "__main__":
    run()
