"""One pass over images in batches of one size, each image exactly once.

Axis letters: B batch, H W C image.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from iddpm_jax.data.pixels import to_float
from iddpm_jax.errors import UsageError

_READ_FOR_LABELS = 512  # Images that are read to find one of each class, at most,
_AT_A_TIME = 32  # and so many at once.

Load = Callable[[np.ndarray], Mapping[str, np.ndarray]]


class ImageBatch(NamedTuple):
    """A batch, filled up to its size so that nothing compiles twice.

    indices: int `[B]`, the images' numbers in their source.
    images: float32 `[B, H, W, C]` in [-1, 1].
    labels: int32 `[B]`.
    valid: bool `[B]`; rows that only fill the batch up, or stand in for a bad image, do not count.
    """

    indices: np.ndarray
    images: np.ndarray
    labels: np.ndarray
    valid: np.ndarray

    @property
    def num_valid(self) -> int:
        """Number of rows that count."""
        return int(self.valid.sum())


def spread_indices(total: int, wanted: int) -> np.ndarray:
    """`wanted` of `total` images, spread evenly over all of them; 0 takes all.

    Raises:
      UsageError: there are not as many.
    """
    if not 0 <= wanted <= total:
        raise UsageError(f"num_samples={wanted}, but there are {total} images; 0 takes all")
    return np.arange(wanted or total) * total // (wanted or total)


def one_of_each_class(source: Any, wanted: int) -> np.ndarray:
    """Numbers of up to `wanted` images of different classes, int `[N]`.

    Of a source with `labels`, int `[N]`, they are the first image of each of the first classes.
    Of any other, images are read for their labels, a few hundred at most, spread over the data.
    Without classes they are the first images.
    """
    wanted = min(wanted, len(source))
    first = _first_of_each_class(source, min(wanted, len(source.class_names)))
    chosen = [first[label] for label in sorted(first)][:wanted]
    return np.asarray(chosen) if len(chosen) > 1 else np.arange(wanted)


def _first_of_each_class(source: Any, wanted: int) -> dict[int, int]:
    """The number of an image by its label, of at least `wanted` labels if they are found."""
    labels = getattr(source, "labels", None)
    if labels is not None:
        known, numbers = np.unique(labels, return_index=True)
        return dict(zip(known.tolist(), numbers.tolist(), strict=True))
    first: dict[int, int] = {}
    candidates = spread_indices(len(source), min(len(source), _READ_FOR_LABELS))
    # Strides, so that the first few are spread over the data as well.
    strides = -(-len(candidates) // _AT_A_TIME)
    for start in range(strides):
        if len(first) >= wanted:
            break
        numbers = candidates[start::strides]
        for number, label in zip(numbers, source.batch(numbers)["label"], strict=True):
            first.setdefault(int(label), int(number))
    return first


def image_batches(
    load: Load, indices: np.ndarray, batch_size: int, first: int = 0
) -> Iterator[ImageBatch]:
    """Yields batches of the images `indices`, from the one at `indices[first]` on.

    Args:
      load: indices to a dict of `image` uint8 `[B, H, W, C]`, `label` `[B]` and, where bad
        images are possible, `sound` bool `[B]`: whether each is the one that was asked for.
    """
    for start in range(first, len(indices), batch_size):
        part = indices[start : start + batch_size]
        filled = np.append(part, np.repeat(part[-1:], batch_size - len(part)))
        batch = load(filled)
        images = to_float(batch["image"])
        valid = np.arange(batch_size) < len(part)
        valid &= batch.get("sound", True)
        yield ImageBatch(filled, images, batch["label"].astype(np.int32), valid)
