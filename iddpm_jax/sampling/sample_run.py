"""What the sample command does: samples with pictures beside them, or other pictures instead."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from iddpm_jax import distributed
from iddpm_jax.errors import UsageError
from iddpm_jax.files.output_directory import digest_of, lock_and_record
from iddpm_jax.sampling import pictures, trajectories
from iddpm_jax.sampling.generator import Generator
from iddpm_jax.sampling.inputs import Inputs
from iddpm_jax.sampling.options import SamplingOptions
from iddpm_jax.sampling.pictures import PictureOptions
from iddpm_jax.sampling.trained_model import TrainedModel
from iddpm_jax.sampling.write_samples import Drawing, draw


class ExtraPictures(NamedTuple):
    """Which pictures are wanted beside the samples.

    Attributes:
      show_steps: moments of the reverse process in steps.png; 0: no such file.
      film: the reverse process as steps.gif.
      forward: real images on their way to noise, forward.png.
      data_dir: where those are now, if they have moved.
    """

    show_steps: int = 0
    film: bool = False
    forward: bool = False
    data_dir: str | None = None


def write_samples(
    model: TrainedModel,
    options: SamplingOptions,
    num_samples: int,
    extra: ExtraPictures,
    *,
    peer_timeout: float = 0,
) -> None:
    """Draws what is missing of the samples, then the pictures, and prints where they are.

    Args:
      peer_timeout: seconds after which hosts of a run end when one of them makes no progress.

    Raises:
      UsageError: the model cannot do what is asked, or the directory cannot be written.
    """
    generator, settings = _generator_and_settings(model, options, num_samples)
    steps = generator.d.num_timesteps
    if extra.show_steps > steps:
        raise UsageError(f"--show_steps={extra.show_steps} is more than {steps} steps")
    out = options.directory(settings)
    inputs = Inputs(labels=model.label_rule(settings["labels"]))
    drawing = Drawing(model, generator, settings, out, inputs, options.png)
    with lock_and_record(out, settings):
        samples = draw(drawing, peer_timeout)
        distributed.print_once(f"{num_samples:,} samples: {samples}")
        distributed.print_once(f"grid: {out / 'grid.png'}")
        _write_extra_pictures(
            PictureOptions(model, generator, settings["labels"], options.seed, out), extra
        )


def _write_extra_pictures(options: PictureOptions, extra: ExtraPictures) -> None:
    if extra.show_steps:
        path = pictures.write_steps(options, extra.show_steps)
        distributed.print_once(f"reverse process: {path}")
    if extra.film:
        distributed.print_once(f"film: {pictures.write_film(options)}")
    if extra.forward:
        path = pictures.write_forward(options, extra.data_dir)
        distributed.print_once(f"forward process: {path}")


def write_inversion(model: TrainedModel, options: SamplingOptions, paths: Sequence[str]) -> None:
    """Encodes images into noise by DDIM, decodes that again, and prints the errors.

    Raises:
      UsageError: another sampler is asked for, an image cannot be used, or the directory cannot
        be written.
    """
    sampler = options.sampler or "ddim"
    if sampler != "ddim" or options.eta:
        raise UsageError(f"--invert goes by ddim with eta=0, not by {sampler} with {options.eta}")
    options = dataclasses.replace(options, sampler=sampler)
    generator, settings = _generator_and_settings(model, options)
    wanted = PictureOptions(model, generator, settings["labels"], options.seed, pathlib.Path())
    # Before there is a directory, so that a file that cannot be read leaves none.
    images = pictures.read_images(wanted, paths)
    settings["invert"] = digest_of(images)
    out = options.directory(settings, "invert")
    with lock_and_record(out, settings):
        errors = pictures.write_inversion(dataclasses.replace(wanted, out=out), images)
    for path, error in zip(paths, errors, strict=True):
        print(f"{path}: root mean square error {error:.2f} of 255")
    print(f"originals and reconstructions: {out / 'inversion.png'}")


def write_interpolation(
    model: TrainedModel, options: SamplingOptions, seeds: tuple[int, int]
) -> None:
    """Draws what lies between the images of two seeds' noise, a row for each label.

    Raises:
      UsageError: the sampler adds noise, or the directory cannot be written.
    """
    options = dataclasses.replace(options, sampler=options.sampler or "ddim")
    generator, settings = _generator_and_settings(model, options)
    settings["interpolate"] = list(seeds)
    trajectories.check_deterministic(generator)
    out = options.directory(settings, "interpolate")
    wanted = PictureOptions(model, generator, settings["labels"], options.seed, out)
    with lock_and_record(out, settings):
        path = pictures.write_interpolation(wanted, seeds)
        distributed.print_once(f"interpolation: {path}")


def _generator_and_settings(
    model: TrainedModel, options: SamplingOptions, num_samples: int = 0
) -> tuple[Generator, dict[str, Any]]:
    """What draws, and what the results depend on; without samples neither number nor seed does."""
    generator = options.generator(model)
    settings = options.settings(model, generator, num_samples, model.class_names)
    model.label_rule(settings["labels"])  # Raises for labels that the model does not have.
    if not num_samples:
        for key in ("num_samples", "seed", "rgb"):
            del settings[key]
    return generator, settings
