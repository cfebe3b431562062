"""The images of an evaluation: which of a data set, and so many at a time.

Axis letters: B batch, N images in all.
"""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from iddpm_jax.data import Source
from iddpm_jax.data.image_batches import ImageBatch, image_batches, spread_indices
from iddpm_jax.distributed.mesh import batch_size_for
from iddpm_jax.evaluation.trained_model import TrainedModel


class ImageChoice(NamedTuple):
    """Which images of a model's data are wanted.

    Attributes:
      split: the part of the data, such as `test`.
      num_images: how many, spread over the split; 0: all.
      batch_size: images at a time; changes nothing but speed and memory.
      data_dir: where the data are now, if they have moved.
      test_percent: share of a folder that is its test split; None: that of the run.
      fewer_will_do: whether to take all where there are fewer than `num_images`.
    """

    split: str
    num_images: int = 0
    batch_size: int = 64
    data_dir: str | None = None
    test_percent: float | None = None
    fewer_will_do: bool = False


@dataclasses.dataclass(frozen=True)
class Images:
    """Images in the order of their evaluation.

    Attributes:
      source: the data.
      indices: their numbers in it, int `[N]`.
      batch_size: B, a multiple of the devices.
    """

    source: Source
    indices: np.ndarray
    batch_size: int

    def __len__(self) -> int:
        return len(self.indices)

    def batches(self, first: int) -> Iterator[tuple[int, int, ImageBatch]]:
        """Yields the number of a batch's first image, of its images, and the batch.

        `first` is the number of the image to begin with.
        """
        batches = image_batches(self.source.batch, self.indices, self.batch_size, first)
        starts = range(first, len(self), self.batch_size)
        for start, batch in zip(starts, batches, strict=True):
            yield start, min(self.batch_size, len(self) - start), batch


def open_images(model: TrainedModel, choice: ImageChoice, mesh: Mesh) -> Images:
    """Opens a model's data.

    Raises:
      UsageError: they cannot be opened, have no such split, or not as many images.
    """
    source = model.open_source(
        choice.split, data_dir=choice.data_dir, test_percent=choice.test_percent
    )
    wanted = choice.num_images
    indices = spread_indices(
        len(source), min(wanted, len(source)) if choice.fewer_will_do else wanted
    )
    return Images(source, indices, batch_size_for(len(indices), choice.batch_size, mesh))
