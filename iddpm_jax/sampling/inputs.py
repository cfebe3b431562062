"""What samples are drawn from, besides a seed: labels, small images and noise, by number.

A sample's number decides what it gets, so that it does not depend on the batch it is drawn in.

Axis letters: b batch, N rows that were given, H W c image, h w small image.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, Int, Shaped, UInt8

from iddpm_jax import diffusion as dm
from iddpm_jax import models
from iddpm_jax.data.pixels import to_float
from iddpm_jax.errors import UsageError

Labels = Sequence[int] | Int[np.ndarray, " N"]

# Numbers of samples to a row for each of them; or None, where there is no such input.
Rule = Callable[[Int[np.ndarray, " b"]], Shaped[np.ndarray, " b *row"] | None]


def in_turn(rows: Shaped[np.ndarray, " N *row"] | None) -> Rule:
    """The rule that takes rows one after the other, and begins again; None gives none."""
    return lambda indices: None if rows is None else rows[indices % len(rows)]


_NOTHING = in_turn(None)


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The inputs of a generator, each a rule that goes by a sample's number.

    Attributes:
      labels: int32 `[b]`, of a class-conditional model.
      low_res: float32 `[b, h, w, c]`, the input of a super-resolution model.
      x_T: float32 `[b, H, W, c]`, where it is not to be the samples' own noise.
    """

    labels: Rule = _NOTHING
    low_res: Rule = _NOTHING
    x_T: Rule = _NOTHING  # noqa: N815


def label_rule(labels: Labels | None, num_classes: int) -> Rule:
    """The given labels in turn, or all classes; UsageError if there are no such classes.

    `num_classes` is 0 for an unconditional model, which has no labels.
    """
    if not num_classes:
        if labels is not None:
            raise UsageError(f"labels={labels!r}, but the model is unconditional")
        return _NOTHING
    given = range(num_classes) if labels is None else labels
    is_list = isinstance(given, Sequence) or (isinstance(given, np.ndarray) and given.ndim)
    if not (is_list and len(given) and all(map(is_whole, given))):
        raise UsageError(f"labels={labels!r}: give a list of class numbers, such as [0, 1]")
    outside = [int(label) for label in given if not 0 <= label < num_classes]
    if outside:
        raise UsageError(
            f"labels {outside} are outside the model's {num_classes} classes, "
            f"0 to {num_classes - 1}"
        )
    return in_turn(np.asarray(given, np.int32))


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number, Python's or numpy's."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def low_res_rule(low_res: models.LowRes, images: UInt8[np.ndarray, "N h w c"], seed: int) -> Rule:
    """Small images as the network takes them; beyond the last, the last.

    An image's noise, where the model was trained with some, depends on seed and number alone.
    """

    def low_res_of(indices: Int[np.ndarray, " b"]) -> Float32[np.ndarray, "b h w c"]:
        small = to_float(images[np.minimum(indices, len(images) - 1)])
        keys = dm.stream_keys(seed, dm.Stream.SECOND_STAGE_LOW_RES, indices)
        return np.asarray(low_res.augment(small, keys))

    return low_res_of


def check_low_res(
    low_res: models.LowRes | None, images: Shaped[np.ndarray, "..."], channels: int
) -> None:
    """UsageError unless the images can be given to a super-resolution model."""
    if low_res is None:
        raise UsageError("the model draws images from noise alone; it takes no images")
    expected = (low_res.size, low_res.size, channels)
    if images.dtype != np.uint8 or images.shape[1:] != expected:
        raise UsageError(
            f"images are {images.dtype} of (height, width, channels) {images.shape[1:]}, the "
            f"model takes uint8 of {expected}"
        )
    if not len(images):
        raise UsageError("there are no images")
