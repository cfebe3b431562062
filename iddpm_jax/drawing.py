"""Drawing many samples into a directory, of which nothing is lost when it is stopped."""

import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from iddpm_jax import processes
from iddpm_jax.evaluation.generation import Generator, draw_batches
from iddpm_jax.evaluation.grids import class_grid, save_png
from iddpm_jax.evaluation.shards import ShardedSamples, claim
from iddpm_jax.progress_bar import progress_bar
from iddpm_jax.trained import TrainedModel

_GRID_SAMPLES = 100
# Settings that are paths, by which every process may call the same by another name.
_HOST_LOCAL = frozenset({"workdir", "base_samples", "images", "base_workdir", "base"})


@dataclasses.dataclass(frozen=True)
class Drawing:
    """One run of drawing samples.

    Attributes:
      model, generator: what draws.
      settings: what is drawn, as from `sampling_flags.settings`: kept in the directory, so that
        another run cannot mix with it.
      out: the directory.
      label_of: sample numbers `[B]` to labels int32 `[B]`, or None.
      low_res_of: sample numbers `[B]` to the input of a super-resolution model, `[B, h, w, C]`.
      grid: the first samples, uint8 `[N, H, W, C]`, and their labels to a picture; by default
        with a row for each class.
    """

    model: TrainedModel
    generator: Generator
    settings: Mapping[str, Any]
    out: pathlib.Path
    label_of: Callable[[np.ndarray], np.ndarray | None]
    low_res_of: Callable[[np.ndarray], np.ndarray | None] = lambda indices: None
    grid: Callable[[np.ndarray, np.ndarray | None], np.ndarray] | None = None


def draw(drawing: Drawing, peer_timeout: float) -> ShardedSamples:
    """Draws what is missing of `samples.npz`, `grid.png` and, if they are wanted, single files.

    Raises:
      UsageError: the directory holds another run, or cannot be written.
    """
    drawn = {key: value for key, value in drawing.settings.items() if key not in _HOST_LOCAL}
    processes.check_same_everywhere(drawn, "samples")
    processes.on_first(lambda: claim(drawing.out, drawing.settings))
    samples = ShardedSamples(drawing.out)
    if not processes.on_first(lambda: samples.complete):
        with processes.Watch(drawing.out, peer_timeout) as watch:
            _draw_missing(drawing, samples, watch)
        processes.on_first(lambda: _finish(drawing, samples))
    return samples


def _draw_missing(drawing: Drawing, samples: ShardedSamples, watch: processes.Watch) -> None:
    """Files are written while the next batch is drawn."""
    total, size = drawing.settings["num_samples"], drawing.settings["batch_size"]
    first, parts = processes.on_first(samples.count), len(drawing.generator.parts())
    advanced = itertools.count()

    def on_part() -> None:
        bar.update(min(size / parts, bar.total - bar.n))
        watch.at(next(advanced), "sampling")

    batches = draw_batches(
        drawing.generator,
        total,
        drawing.label_of,
        low_res_of=drawing.low_res_of,
        seed=drawing.settings["seed"],
        guidance=drawing.settings["guidance"],
        batch_size=size,
        first_batch=first,
        on_part=on_part,
    )
    if first:
        processes.tell(f"continuing after {first} finished batches of {size}")
    with (
        progress_bar(total, min(first * size, total), "samples") as bar,
        ThreadPoolExecutor(1) as writer,
    ):
        pending = None
        for number, batch in enumerate(batches, start=first):
            if jax.process_index():
                continue  # The first process has all images, and writes them.
            if pending is not None:
                pending.result()
            pending = writer.submit(_write_batch, drawing, samples, number, *batch)
        if pending is not None:
            pending.result()


def _write_batch(drawing: Drawing, samples, number: int, indices, labels, images) -> None:
    images = jax.device_get(images)
    if drawing.settings["png"]:
        for i, image in enumerate(images):
            kind = "" if labels is None else f"_{drawing.model.class_names[labels[i]]}"
            shown = np.squeeze(image, -1) if image.shape[-1] == 1 else image
            save_png(samples.directory / "png" / f"{indices[i]:06d}{kind}.png", shown)
    samples.write(number, images, labels)


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
    save_png(samples.directory / "grid.png", picture)
    samples.finish(drawing.settings["num_samples"])
