"""From a source to batches: shuffled, repeated, and the same for any number of processes.

Axis letters: B global batch, b its part on this process, H W C image.
"""

from collections.abc import Iterator
from typing import Protocol

import grain
import numpy as np

from iddpm_jax.data.pixels import to_float
from iddpm_jax.data.sources import Source
from iddpm_jax.errors import UsageError


class BatchIterator(Iterator[dict[str, np.ndarray]], Protocol):
    """Batches whose position can be stored and restored."""

    def get_state(self) -> dict: ...

    def set_state(self, state: dict) -> None: ...


def make_batches(
    source: Source,
    *,
    batch_size: int,
    seed: int,
    random_flip: bool = False,
    num_workers: int = 2,
    process_index: int = 0,
    process_count: int = 1,
) -> BatchIterator:
    """An endless iterator of training batches.

    Every epoch is shuffled anew. Step k's global batch, its order included, depends on
    the seed and k alone: each process takes its own block of the same list of indices.

    Args:
      source: where images come from.
      batch_size: B, over all processes.
      seed: of shuffling and flips.
      random_flip: mirror half of the images left to right.
      num_workers: threads that prepare batches ahead; 0 prepares them when asked.

    Returns:
      An iterator of `image` float32 `[b, H, W, C]` in [-1, 1] and `label` int32 `[b]`.

    Raises:
      UsageError: fewer images than a batch, or processes do not divide the batch.
    """
    if len(source) < batch_size:
        raise UsageError(
            f"train.batch_size={batch_size} is more than the {len(source)} images of the data"
        )
    if batch_size % process_count:
        raise UsageError(
            f"train.batch_size={batch_size} is not divisible by {process_count} processes"
        )
    local = batch_size // process_count
    block = slice(process_index * local, (process_index + 1) * local)

    def load(indices: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        # Drawn for the global batch, so that a flip does not depend on the process count.
        flips = rng.random(batch_size) < 0.5
        batch = source.batch(indices[block])
        images = to_float(batch["image"])
        if random_flip:
            mirrored = flips[block, None, None, None]
            images = np.where(mirrored, images[:, :, ::-1], images)
        return {"image": images, "label": batch["label"].astype(np.int32)}

    # Indices are batched before anything is loaded: then loading is one vectorised call.
    dataset = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat()
    dataset = dataset.batch(batch_size, drop_remainder=True).random_map(load)
    options = grain.ReadOptions(num_threads=num_workers, prefetch_buffer_size=8 * num_workers)
    return iter(dataset.to_iter_dataset(options))
