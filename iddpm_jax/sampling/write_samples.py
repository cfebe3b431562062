"""Drawing many samples into a directory, of which nothing is lost when it is stopped."""

import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from iddpm_jax import distributed
from iddpm_jax.distributed.progress_bar import progress_bar
from iddpm_jax.errors import SMALLER_BATCHES, explain_out_of_memory
from iddpm_jax.files.atomic import refusing_disk_errors
from iddpm_jax.files.pictures import class_grid, save_png
from iddpm_jax.files.shards import ShardedSamples
from iddpm_jax.files.untrusted import safe_file_name
from iddpm_jax.sampling.generator import Generator, draw_batches
from iddpm_jax.sampling.inputs import Inputs
from iddpm_jax.sampling.trained_model import TrainedModel

_GRID_SAMPLES = 100


@dataclasses.dataclass(frozen=True)
class Drawing:
    """One run of drawing samples.

    Attributes:
      model, generator: what draws.
      settings: what the samples depend on, as from `SamplingOptions.settings`.
      out: the directory, which this run has locked (`output_directory.lock_and_record`).
      inputs: what the samples are drawn from.
      png: whether to write a file for each sample, too.
      grid: the first samples, uint8 `[N, H, W, C]`, and their labels to a picture; by default
        with a row for each class.
    """

    model: TrainedModel
    generator: Generator
    settings: Mapping[str, Any]
    out: pathlib.Path
    inputs: Inputs
    png: bool = False
    grid: Callable[[np.ndarray, np.ndarray | None], np.ndarray] | None = None


def draw(drawing: Drawing, peer_timeout: float) -> pathlib.Path:
    """Draws what is missing of `samples.npz`, `grid.png` and, if they are wanted, single files.

    Returns:
      The path of `samples.npz`.

    Raises:
      UsageError: what is there is damaged, or the directory cannot be written.
    """
    agreed = {**drawing.settings, "batch_size": drawing.generator.batch_size, "png": drawing.png}
    distributed.check_same_everywhere(agreed, "samples")
    samples = ShardedSamples(
        drawing.out,
        drawing.settings["num_samples"],
        drawing.model.image_shape,
        num_classes=drawing.model.num_classes,
        rgb=drawing.settings["rgb"],
    )
    if distributed.on_first(samples.complete):
        distributed.on_first(samples.remove_shards)
    else:
        with distributed.Watch(drawing.out, peer_timeout) as watch:
            _draw_missing(drawing, samples, watch)
        distributed.on_first(lambda: _finish(drawing, samples))
    if drawing.png:
        distributed.on_first(lambda: _write_missing_files(drawing, samples))
    return samples.result


@explain_out_of_memory(SMALLER_BATCHES)
def _draw_missing(drawing: Drawing, samples: ShardedSamples, watch: distributed.Watch) -> None:
    """Files are written while the next batch is drawn."""
    total = drawing.settings["num_samples"]
    size = drawing.generator.batch_size_for(total)
    done, parts = distributed.on_first(samples.done), len(drawing.generator.parts())
    advanced = itertools.count()

    def on_part() -> None:
        bar.update(min(size / parts, bar.total - bar.n))
        watch.at(next(advanced), "sampling")

    batches = draw_batches(
        drawing.generator,
        total,
        drawing.settings["seed"],
        drawing.inputs,
        first=done,
        on_part=on_part,
    )
    if done:
        distributed.print_once(f"continuing after {done:,} finished samples")
    with progress_bar(total, done, "samples") as bar, ThreadPoolExecutor(1) as writer:
        pending = None
        for batch in batches:
            if jax.process_index():
                continue  # The first process has all images, and writes them.
            if pending is not None:
                pending.result()
            pending = writer.submit(_write_batch, drawing, samples, *batch)
        if pending is not None:
            pending.result()


def _write_batch(drawing: Drawing, samples: ShardedSamples, indices, labels, images) -> None:
    images = jax.device_get(images)
    if drawing.png:
        for path, image in zip(_files(drawing, indices, labels), images, strict=True):
            _write_file(path, image)
    samples.write(int(indices[0]), images, labels)


def _write_missing_files(drawing: Drawing, samples: ShardedSamples) -> None:
    """Writes those of a run that was first drawn without them."""
    total = drawing.settings["num_samples"]
    indices = np.arange(total)
    paths = _files(drawing, indices, drawing.inputs.labels(indices))
    if all(path.exists() for path in paths):
        return
    channels = drawing.model.image_shape[-1]  # One is there three times where RGB was wanted.
    size = drawing.generator.batch_size_for(total)
    images = itertools.chain.from_iterable(samples.read_result(size))
    for path, image in zip(paths, images, strict=True):
        if not path.exists():
            _write_file(path, image[..., :channels])


def _files(drawing: Drawing, indices: np.ndarray, labels: np.ndarray | None) -> list[pathlib.Path]:
    """Where samples go, one by one. Names of classes may be a stranger's, and choose no path."""
    kinds = [""] * len(indices)
    if labels is not None:
        kinds = [f"_{safe_file_name(drawing.model.class_names[label])}" for label in labels]
    folder = drawing.out / "png"
    return [folder / f"{i:06d}{kind}.png" for i, kind in zip(indices, kinds, strict=True)]


def _write_file(path: pathlib.Path, image: np.ndarray) -> None:
    with refusing_disk_errors(path):
        save_png(path, np.squeeze(image, -1) if image.shape[-1] == 1 else image)


def _finish(drawing: Drawing, samples: ShardedSamples) -> None:
    images, labels, have = [], [], 0
    for part, part_labels in samples.read():
        images.append(part)
        labels.append(part_labels)
        have += len(part)
        if have >= _GRID_SAMPLES:
            break
    images = np.concatenate(images)[:_GRID_SAMPLES]
    labels = None if labels[0] is None else np.concatenate(labels)[:_GRID_SAMPLES]
    if drawing.grid is not None:
        picture = drawing.grid(images, labels)
    else:
        picture = class_grid(images, labels, drawing.model.class_names)
    path = drawing.out / "grid.png"
    with refusing_disk_errors(path):
        save_png(path, picture)
    samples.finish()
