"""What the super_resolve command does: large versions of small images, given or drawn first.

Axis letters: N images, H W large, h w small, C channels.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from iddpm_jax import distributed, models
from iddpm_jax.errors import UsageError
from iddpm_jax.files.output_directory import digest_of, lock_and_record
from iddpm_jax.sampling.base_samples import BaseSamples, read_folder, read_npz
from iddpm_jax.sampling.generator import Generator
from iddpm_jax.sampling.inputs import Inputs, Rule
from iddpm_jax.sampling.options import SamplingOptions
from iddpm_jax.sampling.super_resolution import comparison_grid
from iddpm_jax.sampling.trained_model import TrainedModel
from iddpm_jax.sampling.write_samples import Drawing, draw

_CASCADE_SAMPLES = 64
_GRID_SAMPLES = 24


class Base(NamedTuple):
    """The model that draws the small images of a cascade, and how it draws them."""

    model: TrainedModel
    workdir: str
    sampler: str
    respacing: str
    guidance: float


def super_resolution_model(
    model: TrainedModel, workdir: str, low_res_noise: float | None
) -> TrainedModel:
    """The model with so much noise on the small images; None: as much as it was trained with.

    Raises:
      UsageError: the model, which is that of `workdir`, is not one for super-resolution.
    """
    if model.low_res is None:
        path = pathlib.Path(workdir).absolute()
        raise UsageError(f"{path} holds no super-resolution model; use iddpm_jax.sample")
    if low_res_noise is None:
        return model
    return dataclasses.replace(model, low_res=model.low_res._replace(noise=low_res_noise))


def enlarge_samples(
    model: TrainedModel, options: SamplingOptions, path: str, count: int, *, peer_timeout: float = 0
) -> None:
    """Enlarges the first `count` samples of an npz, 0 for all; arguments as of `enlarge_folder`."""
    _enlarge_given(model, options, path, read_npz, count, peer_timeout)


def enlarge_folder(
    model: TrainedModel, options: SamplingOptions, path: str, count: int, *, peer_timeout: float = 0
) -> None:
    """Enlarges the first `count` images of a folder or archive, 0 for all.

    Args:
      peer_timeout: seconds after which hosts of a run end when one of them makes no progress.

    Raises:
      UsageError: the images or labels do not fit, or the directory cannot be written.
    """
    _enlarge_given(model, options, path, read_folder, count, peer_timeout)


def _enlarge_given(
    model: TrainedModel,
    options: SamplingOptions,
    path: str,
    read: Callable[..., BaseSamples],
    count: int,
    peer_timeout: float,
) -> None:
    small = read(path, count, _small_shape(model))
    if model.num_classes and small.labels is None and options.labels is None:
        raise UsageError(
            f"the model is class-conditional and {path} has no labels: give --labels, which are "
            "taken in turn"
        )
    generator = options.generator(model)
    settings = _settings(model, options, generator, len(small.images), model.class_names)
    model.label_rule(settings["labels"])  # Raises for labels that the model does not have.
    settings["images"] = digest_of(*small)
    drawing = _of_images(_drawing(model, options, generator, settings), small)
    with lock_and_record(drawing.out, settings):
        _draw_large(drawing, peer_timeout)


def enlarge_cascade(
    model: TrainedModel, options: SamplingOptions, base: Base, count: int, *, peer_timeout: float
) -> None:
    """Draws small samples into `base/` inside the directory, and enlarges them.

    Args:
      count: how many; 0: 64.
      peer_timeout: as of `enlarge_folder`.

    Raises:
      UsageError: the two models do not fit, or the directory cannot be written.
    """
    _check_base(model, base, options.labels)
    generator = options.generator(model)
    names = (model if model.num_classes else base.model).class_names
    settings = _settings(model, options, generator, count or _CASCADE_SAMPLES, names)
    if model.num_classes:
        model.label_rule(settings["labels"])  # Raises before anything is drawn.
    first = _base_drawing(base, options, settings)
    settings["base"] = first.settings
    drawing = _drawing(model, options, generator, settings)
    with lock_and_record(drawing.out, settings):
        first = dataclasses.replace(first, out=drawing.out / "base")
        with lock_and_record(first.out, first.settings):
            samples = draw(first, peer_timeout)
        small = read_npz(str(samples), 0, _small_shape(model))
        _draw_large(_of_images(drawing, small), peer_timeout)


def _low_res(model: TrainedModel) -> models.LowRes:
    """What makes the input of a model that `super_resolution_model` has returned."""
    assert model.low_res is not None, "super_resolution_model comes first"
    return model.low_res


def _small_shape(model: TrainedModel) -> tuple[int, int, int]:
    size = _low_res(model).size
    return (size, size, model.image_shape[-1])


def _settings(
    model: TrainedModel,
    options: SamplingOptions,
    generator: Generator,
    count: int,
    class_names: Sequence[str],
) -> dict[str, Any]:
    settings = options.settings(model, generator, count, class_names)
    return {**settings, "low_res_noise": _low_res(model).noise}


def _drawing(
    model: TrainedModel, options: SamplingOptions, generator: Generator, settings: dict[str, Any]
) -> Drawing:
    """How the large images are drawn; what from is still to be said."""
    out = options.directory(settings, "super")
    return Drawing(model, generator, settings, out, Inputs(), options.png)


def _of_images(drawing: Drawing, small: BaseSamples) -> Drawing:
    """How the large versions of these images are drawn."""

    def grid(images: np.ndarray, _) -> np.ndarray:
        shown = images[:_GRID_SAMPLES]
        return comparison_grid(small.images[: len(shown)], shown)

    model, settings = drawing.model, drawing.settings
    inputs = Inputs(
        labels=_label_rule(model, settings["labels"] if model.num_classes else None, small),
        low_res=model.low_res_rule(small.images, settings["seed"]),
    )
    return dataclasses.replace(drawing, inputs=inputs, grid=grid)


def _label_rule(model: TrainedModel, labels: Sequence[int] | None, small: BaseSamples) -> Rule:
    """Sample numbers to labels: those that were asked for, or those of the small images."""
    if labels is not None or small.labels is None or not model.num_classes:
        model.check_low_res(small.images, labels)
        return model.label_rule(labels)
    model.label_rule(np.unique(small.labels))  # Raises for labels that the model does not have.
    last = len(small.labels) - 1
    return lambda indices: small.labels[np.minimum(indices, last)]


def _draw_large(drawing: Drawing, peer_timeout: float) -> None:
    samples = draw(drawing, peer_timeout)
    distributed.print_once(f"{drawing.settings['num_samples']:,} samples: {samples}")
    grid = drawing.out / "grid.png"
    distributed.print_once(f"low resolution, bilinear and result: {grid}")


def _check_base(model: TrainedModel, base: Base, labels: Sequence[str] | None) -> None:
    """UsageError unless what the base draws can be enlarged by the model."""
    base.model.refuse_super_resolution("the base of a cascade")
    if base.model.image_shape != _small_shape(model):
        raise UsageError(
            f"--base_workdir={base.workdir} draws images of (height, width, channels) "
            f"{base.model.image_shape}, but the model takes {_small_shape(model)}"
        )
    if model.num_classes and base.model.num_classes != model.num_classes and not labels:
        raise UsageError(
            f"the base model has {base.model.num_classes} classes and the super-resolution model "
            f"{model.num_classes}: give --labels"
        )


def _base_drawing(base: Base, options: SamplingOptions, wanted: dict[str, Any]) -> Drawing:
    """How the small samples are drawn, in a directory that is still to be named."""
    model = base.model
    generator = model.generator(
        base.sampler, base.respacing, guidance=base.guidance, batch_size=options.batch_size
    )
    settings: dict[str, Any] = {
        **model.identity(),
        "num_samples": wanted["num_samples"],
        "sampler": base.sampler,
        "respacing": model.respacing_name(base.respacing),
        "labels": wanted["labels"] if model.num_classes else None,
        "guidance": base.guidance,
        "clip_denoised": generator.clips,
        "seed": wanted["seed"],
        "rgb": False,
    }
    inputs = Inputs(labels=model.label_rule(settings["labels"]))
    return Drawing(model, generator, settings, pathlib.Path(), inputs, options.png)
