"""Many samples on disk: shards while they are drawn, one npz at the end.

    DIR/sampling.json        the settings of the run (settings_record.py)
    DIR/shards/000000000.npz finished parts, named by their first sample, until all are there
    DIR/samples.npz          arr_0 uint8 [N, H, W, C], arr_1 int64 [N] where there are labels:
                             what OpenAI's evaluator reads

Memory does not grow with N.
"""

import pathlib
import re
import zipfile
from collections.abc import Iterator, Mapping
from typing import cast

import numpy as np

from iddpm_jax.errors import UsageError
from iddpm_jax.files.atomic import (
    refusing_disk_errors,
    remove_scratch,
    replacing,
    write_atomically,
)
from iddpm_jax.files.npz import (
    ArrayKind,
    DamagedError,
    check_npz,
    npz_bytes,
    read_npz,
    read_rows,
    write_array,
)

_SHARD = re.compile(r"\d{9,}\.npz")


class Shards:
    """The finished parts of long work on the items 0 … total - 1.

    Each is a small npz in `directory`, named by the number of its first item; its array `items` is
    the number of its items. That may differ from part to part, so that work may continue with
    another batch size.
    """

    def __init__(self, directory: pathlib.Path, total: int):
        self._directory = directory
        self._total = total

    def done(self) -> int:
        """Number of finished items, without a gap from the first."""
        return sum(count for _, count in self._parts())

    def write(self, first: int, count: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes the part about `count` items from `first` on, in one atomic move."""
        path = self._path(first)
        arrays = {name: np.asarray(value, order="C") for name, value in arrays.items()}
        with refusing_disk_errors(path):
            self._directory.mkdir(exist_ok=True)
            write_atomically(path, npz_bytes(items=np.asarray(count, np.int64), **arrays))

    def read(self) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """Yields the number of items and the arrays of all parts, in order.

        Raises:
          UsageError: a part cannot be read; with what to do.
        """
        for first, count in self._parts():
            arrays = self._read(first)
            del arrays["items"]
            yield count, arrays

    def remove(self) -> None:
        """Removes the parts, and the directory unless there is something else in it."""
        if not self._directory.is_dir() or self._directory.is_symlink():
            return
        remove_scratch(self._directory)
        for path in self._directory.iterdir():
            if _SHARD.fullmatch(path.name):
                path.unlink()
        if not any(self._directory.iterdir()):
            self._directory.rmdir()

    def _parts(self) -> Iterator[tuple[int, int]]:
        """Yields the first item and the number of items of every part."""
        first = 0
        while first < self._total and self._path(first).exists():
            items = self._read(first, ("items",))["items"]
            count = int(items) if items.shape == () and items.dtype.kind in "iu" else 0
            if not 0 < count <= self._total - first:
                raise self._damaged(first, f"it is about {count} items")
            yield first, count
            first += count

    def _read(self, first: int, only: tuple[str, ...] | None = None) -> dict[str, np.ndarray]:
        try:
            return read_npz(self._path(first), only)
        except DamagedError as error:
            raise self._damaged(first, error) from error

    def _damaged(self, first: int, reason: object) -> UsageError:
        prefix = "" if isinstance(reason, DamagedError) else f"{self._path(first)} is damaged: "
        return UsageError(f"{prefix}{reason}; delete it, and what it had is computed again")

    def _path(self, first: int) -> pathlib.Path:
        return self._directory / f"{first:09d}.npz"


class ShardedSamples:
    """The samples of one run in `directory`, whose settings are recorded and whose lock is held.

    Args:
      num_samples: N.
      image_shape: (H, W, C).
      num_classes: labels are below it; 0 for samples without.
      rgb: whether `samples.npz` has samples of one channel as three equal ones.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        num_samples: int,
        image_shape: tuple[int, int, int],
        *,
        num_classes: int,
        rgb: bool = False,
    ):
        self.directory = directory
        self.result = directory / "samples.npz"
        self._image_shape, self._num_classes = tuple(image_shape), num_classes
        channels = 3 if rgb else image_shape[-1]
        kinds = {
            "arr_0": ArrayKind((num_samples, *image_shape[:2], channels), np.dtype(np.uint8)),
            "arr_1": ArrayKind((num_samples,), np.dtype(np.int64)),
        }
        self._kinds = kinds if num_classes else {"arr_0": kinds["arr_0"]}
        self._shards = Shards(directory / "shards", num_samples)
        self.done = self._shards.done

    def complete(self) -> bool:
        """Whether all samples are in `samples.npz`, which is read through.

        Raises:
          UsageError: the file is there, but damaged.
        """
        if not self.result.exists():
            return False
        try:
            check_npz(self.result, self._kinds)
        except DamagedError as error:
            raise UsageError(f"{error}; delete it, and it is drawn again") from error
        return True

    def write(self, first: int, images: np.ndarray, labels: np.ndarray | None) -> None:
        """Writes a shard, in one atomic move."""
        arrays = {"images": images} if labels is None else {"images": images, "labels": labels}
        self._shards.write(first, len(images), arrays)

    def read(self) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Yields (images, labels) of all shards."""
        for count, shard in self._shards.read():
            images, labels = shard.get("images"), shard.get("labels")
            sound = self._are_images(images, count) and self._are_labels(labels, count)
            if images is None or not sound:
                raise UsageError(
                    f"{self.directory / 'shards'} holds other samples than those of this run; "
                    "delete it, and they are drawn again"
                )
            yield images, labels

    def finish(self) -> None:
        """Streams the shards into `samples.npz`, and removes them."""
        images = (
            np.broadcast_to(part, (*part.shape[:-1], self._channels)) for part, _ in self.read()
        )
        with (
            refusing_disk_errors(self.result),
            replacing(self.result) as file,
            zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
        ):
            write_array(archive, "arr_0", self._kinds["arr_0"], images)
            if self._num_classes:
                labels = (part for _, part in self.read())  # None only without classes.
                labels = cast(Iterator[np.ndarray], labels)
                write_array(archive, "arr_1", self._kinds["arr_1"], labels)
        self.remove_shards()

    def remove_shards(self) -> None:
        """Removes the shards, which a kill may have left beside a complete `samples.npz`."""
        self._shards.remove()

    def read_result(self, rows: int) -> Iterator[np.ndarray]:
        """Yields the images of `samples.npz`, `rows` at a time."""
        return read_rows(self.result, "arr_0", rows)

    def _are_images(self, images: np.ndarray | None, count: int) -> bool:
        shape = (count, *self._image_shape)
        return images is not None and (images.shape, images.dtype) == (shape, np.uint8)

    def _are_labels(self, labels: np.ndarray | None, count: int) -> bool:
        if not self._num_classes or labels is None:
            return not self._num_classes and labels is None
        whole = labels.shape == (count,) and labels.dtype.kind in "iu"
        return whole and bool(np.all((labels >= 0) & (labels < self._num_classes)))

    @property
    def _channels(self) -> int:
        return self._kinds["arr_0"].shape[-1]
