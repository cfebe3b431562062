"""The pictures that the sample command draws beside its grid.

Axis letters: b images, K moments, H W C image.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float64, Int32, UInt8

from iddpm_jax import distributed
from iddpm_jax.data.image_batches import one_of_each_class
from iddpm_jax.data.image_files import read_exact
from iddpm_jax.distributed.progress_bar import progress_bar
from iddpm_jax.errors import SMALLER_BATCHES, UsageError, explain_out_of_memory
from iddpm_jax.files.atomic import refusing_disk_errors, write_atomically
from iddpm_jax.files.npz import npz_bytes
from iddpm_jax.files.paths import local_path
from iddpm_jax.files.pictures import class_grid, make_grid, save_gif, save_png
from iddpm_jax.sampling import trajectories
from iddpm_jax.sampling.generator import Generator
from iddpm_jax.sampling.inputs import Labels
from iddpm_jax.sampling.trained_model import TrainedModel

_STRIP_ROWS = 6  # Images of a strip.
_FILM_IMAGES = 100
_FILM_FRAMES = 50
_FRAMES = 9  # Images from one seed to the other.


@dataclasses.dataclass(frozen=True)
class PictureOptions:
    """What all pictures of one command have in common."""

    model: TrainedModel
    generator: Generator
    labels: Labels | None
    seed: int
    out: pathlib.Path

    def labels_of(self, count: int) -> Int32[np.ndarray, " count"] | None:
        """Labels of the first samples, if they have some."""
        return self.model.label_rule(self.labels)(np.arange(count))

    def names_of(self, count: int) -> list[str]:
        """What to call the first samples: by class, or by number."""
        labels = self.labels_of(count)
        if labels is None:
            return [str(i) for i in range(count)]
        return [self.model.class_names[label] for label in labels]


def write_steps(options: PictureOptions, moments: int) -> pathlib.Path:
    """x_t and the predicted x_0 of the first samples at `moments` moments, two rows each."""
    labels = options.labels_of(_STRIP_ROWS)
    x_t, pred_xstart = _reverse_process(options, moments, labels, _STRIP_ROWS)
    rows = np.stack([x_t, pred_xstart]).transpose(2, 0, 1, 3, 4, 5)
    names = [f"{name}  {row}" for name in options.names_of(_STRIP_ROWS) for row in ("x_t", "x_0")]
    return _save(options.out / "steps.png", rows, moments, names)


@explain_out_of_memory(SMALLER_BATCHES)
def _reverse_process(options: PictureOptions, moments: int, labels: np.ndarray | None, count: int):
    """As in `trajectories`, and shows how far it is."""
    steps = options.generator.d.num_timesteps
    with progress_bar(steps, 0, "steps") as bar:
        return trajectories.reverse_process(
            options.generator,
            moments,
            labels,
            count,
            seed=options.seed,
            on_part=lambda share: bar.update(share * steps),
        )


def write_film(options: PictureOptions) -> pathlib.Path:
    """The reverse process of the first samples, as a film."""
    moments = min(_FILM_FRAMES, options.generator.d.num_timesteps)
    labels = options.labels_of(_FILM_IMAGES)
    x_t, _ = _reverse_process(options, moments, labels, _FILM_IMAGES)
    frames = [class_grid(images, labels, options.model.class_names) for images in x_t]
    path = options.out / "steps.gif"
    if jax.process_index() == 0:
        with refusing_disk_errors(path):
            save_gif(path, frames, seconds=5)
    return path


def write_forward(options: PictureOptions, data_dir: str | None = None) -> pathlib.Path:
    """The forward process of real images, one of each class while there is room.

    `data_dir` is where the data are now, if they have moved.
    """
    distributed.print_once("opening the training data, for the forward process")
    source = options.model.open_source("", data_dir=data_dir)
    shown = source.batch(one_of_each_class(source, _STRIP_ROWS))
    images, labels = shown["image"], shown["label"]
    x_t, timesteps = trajectories.forward_process(
        options.generator.d, images, 10, options.seed, options.generator.standardization
    )
    names = [
        source.class_names[label] if source.class_names else str(i)
        for i, label in enumerate(labels)
    ]
    return _save(options.out / "forward.png", x_t.swapaxes(0, 1), len(timesteps), names)


@explain_out_of_memory(SMALLER_BATCHES)
def write_interpolation(options: PictureOptions, seeds: tuple[int, int]) -> pathlib.Path:
    """From the image of one seed to that of the other, a row for each label."""
    model = options.model
    wanted = range(min(10, model.num_classes)) if options.labels is None else options.labels
    labels = np.asarray(wanted, np.int32) if model.num_classes else None
    images = trajectories.interpolate(options.generator, seeds, _FRAMES, labels)
    names = [] if labels is None else [model.class_names[label] for label in labels]
    return _save(options.out / "interpolation.png", images, _FRAMES, names)


def read_images(options: PictureOptions, paths: Sequence[str]) -> UInt8[np.ndarray, "b H W c"]:
    """The images to invert; UsageError as from `read_exact`."""
    if jax.process_count() > 1:
        raise UsageError("--invert is for one process, not for several")
    if options.model.num_classes and options.labels is None:
        raise UsageError("--invert needs the images' --labels: the model is class-conditional")
    if options.labels is not None and len(options.labels) > len(paths):
        raise UsageError(
            f"--labels has {len(options.labels)} labels for {len(paths)} images of --invert: give "
            "one for each image, or fewer, which are taken in turn"
        )
    files = [str(local_path(path, "--invert")) for path in paths]
    return np.stack([read_exact(path, options.model.image_shape) for path in files])


@explain_out_of_memory(SMALLER_BATCHES)
def write_inversion(
    options: PictureOptions, images: UInt8[np.ndarray, "b H W c"]
) -> Float64[np.ndarray, " b"]:
    """Encodes and decodes images; returns the root mean square error of each, in levels."""
    labels = options.labels_of(len(images))
    noise, back = trajectories.invert(options.generator, images, labels)
    path = options.out / "inversion.npz"
    with refusing_disk_errors(path):
        write_atomically(path, npz_bytes(noise=noise, reconstruction=back))
    rows = np.stack([images, back])
    _save(options.out / "inversion.png", rows, len(images), ["original", "reconstruction"])
    difference = images.astype(np.float64) - back
    return np.sqrt(np.mean(np.square(difference), axis=(1, 2, 3)))


def _save(path: pathlib.Path, images: np.ndarray, columns: int, names: Sequence[str]):
    """Saves images `[…, H, W, C]` as a grid, in the order in which they come."""
    if jax.process_index() == 0:  # All have drawn the same.
        grid = make_grid(images.reshape(-1, *images.shape[-3:]), columns, names)
        with refusing_disk_errors(path):
            save_png(path, grid)
    return path
