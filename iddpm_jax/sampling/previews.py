"""The pictures that training draws of what it has learnt: a generator, and a layout.

Axis letters: N samples, H W C image.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Int32, UInt8

from iddpm_jax import diffusion as dm
from iddpm_jax import models
from iddpm_jax.data.pixels import to_float, to_uint8
from iddpm_jax.files.pictures import make_grid
from iddpm_jax.sampling.generator import Generator, draw_all
from iddpm_jax.sampling.inputs import Inputs, in_turn
from iddpm_jax.sampling.super_resolution import comparison_grid

# From the parameters to a picture.
Preview = Callable[[Any], UInt8[np.ndarray, "height width 3"]]


class Layout(NamedTuple):
    """How a grid of samples is laid out.

    count: N.
    labels: None for an unconditional model.
    columns: images in a row.
    names: of the rows, or empty.
    """

    count: int
    labels: Int32[np.ndarray, " N"] | None
    columns: int
    names: tuple[str, ...]


def class_layout(num_samples: int, num_classes: int, class_names: tuple[str, ...]) -> Layout:
    """A row for each class, or a square where there are no classes.

    Args:
      num_samples: how many to show, at most.
      num_classes: of the model; 0 for an unconditional one.
      class_names: names of the classes; those that have none are called by number.
    """
    side = max(1, math.isqrt(num_samples))
    if not num_classes:
        return Layout(num_samples, None, side, ())
    # Where there are more classes than fit in a square, evenly spread ones are shown.
    rows = min(num_classes, side)
    if num_classes <= num_samples and num_classes <= 4 * rows:
        rows = num_classes
    columns = max(1, num_samples // rows)
    shown = np.unique(np.linspace(0, num_classes - 1, rows).round().astype(np.int32))
    named = len(class_names)
    names = tuple(class_names[i] if i < named else str(i) for i in shown)
    labels = shown.repeat(columns)
    return Layout(len(labels), labels, columns, names)


def class_preview(generator: Generator, layout: Layout, seed: int) -> Preview:
    """Draws samples, always from the same noise, so that pictures of two moments compare."""
    inputs = Inputs(labels=in_turn(layout.labels))

    def draw(params: Any) -> UInt8[np.ndarray, "height width 3"]:
        trained = dataclasses.replace(generator, params=params)
        images = draw_all(trained, layout.count, seed, inputs)
        return make_grid(images, layout.columns, layout.names)

    return draw


def super_resolution_preview(
    generator: Generator,
    low_res: models.LowRes,
    originals: UInt8[np.ndarray, "N H W c"],
    labels: Int[np.ndarray, " N"] | None,
    seed: int,
) -> Preview:
    """Draws what a super-resolution model makes of images of the data, always the same.

    Args:
      low_res: what makes the network's input of them.
      labels: None for an unconditional model.
    """
    count = len(originals)

    def draw(params: Any) -> UInt8[np.ndarray, "height width 3"]:
        keys = dm.stream_keys(seed, dm.Stream.PREVIEW_LOW_RES, np.arange(count))
        small = np.asarray(low_res(to_float(originals), keys))
        inputs = Inputs(labels=in_turn(labels), low_res=in_turn(small))
        trained = dataclasses.replace(generator, params=params)
        results = draw_all(trained, count, seed, inputs)
        return comparison_grid(np.asarray(to_uint8(small)), results, originals)

    return draw
