"""Many samples on disk: shards while they are drawn, one npz at the end.

    DIR/sampling.json     what is being drawn; another run cannot mix with it
    DIR/shards/000000.npz finished batches, until everything is there
    DIR/samples.npz       arr_0 uint8 [N, H, W, C], arr_1 int64 [N] where there are labels:
                          what OpenAI's evaluator reads

Memory does not grow with N.
"""

import json
import os
import pathlib
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from iddpm_jax.errors import UsageError
from iddpm_jax.evaluation.files import npz_bytes, write_atomically, write_json

_EPOCH = (1980, 1, 1, 0, 0, 0)  # The same bytes whenever a file is written.


def claim(
    directory: pathlib.Path, settings: Mapping[str, Any], record: str = "sampling.json"
) -> None:
    """Makes `directory` that of the run with these settings, or finds that it is already.

    The settings are kept in the file `record`.

    Raises:
      UsageError: the directory holds another run, or files of somebody else, or cannot be
        written.
    """
    settings = json.loads(json.dumps(settings))
    file = directory / record
    if file.exists():
        before = _read_record(file)
        changed = [
            f"{key}: there {before.get(key)!r}, now {settings.get(key)!r}"
            for key in sorted(before.keys() | settings.keys())
            if before.get(key) != settings.get(key)
        ]
        if changed:
            raise UsageError(
                f"{directory} holds results of another run:\n  "
                + "\n  ".join(changed)
                + "\nchoose another --out"
            )
    elif directory.is_dir() and any(directory.iterdir()):
        raise UsageError(f"{directory} holds other files; choose another --out")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_json(file, settings)
    except OSError as error:
        raise UsageError(f"{directory} cannot be written: {error}") from error


def _read_record(file: pathlib.Path) -> dict[str, Any]:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} cannot be read: {error}; choose another --out") from error
    if not isinstance(record, dict):
        raise UsageError(f"{file} cannot be read: it holds no settings; choose another --out")
    return record


class Shards:
    """The finished parts of long work, numbered from 0, each a small npz in `directory`."""

    def __init__(self, directory: pathlib.Path):
        self._directory = directory

    def count(self) -> int:
        """Number of finished parts, without a gap from the first."""
        number = 0
        while self._path(number).exists():
            number += 1
        return number

    def write(self, number: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes a part, in one atomic move."""
        self._directory.mkdir(exist_ok=True)
        write_atomically(self._path(number), npz_bytes(**arrays))

    def read(self, count: int | None = None) -> Iterator[dict[str, np.ndarray]]:
        """Yields the arrays of the first `count` parts, or of all."""
        for number in range(self.count() if count is None else count):
            try:
                with np.load(self._path(number)) as part:
                    arrays = {name: part[name] for name in part.files}
            except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
                raise UsageError(
                    f"{self._path(number)} cannot be read ({error}); delete it, and what it had is "
                    "computed again"
                ) from error
            yield arrays

    def remove(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)

    def _path(self, number: int) -> pathlib.Path:
        return self._directory / f"{number:06d}.npz"


class ShardedSamples:
    """The shards of one sampling run in `directory`, which has been claimed."""

    def __init__(self, directory: pathlib.Path):
        self.directory = directory
        self.result = directory / "samples.npz"
        self._shards = Shards(directory / "shards")
        self.count = self._shards.count

    @property
    def complete(self) -> bool:
        return self.result.exists()

    def write(self, number: int, images: np.ndarray, labels: np.ndarray | None) -> None:
        """Writes a shard, in one atomic move."""
        self._shards.write(
            number, {"images": images} if labels is None else {"images": images, "labels": labels}
        )

    def read(self, count: int | None = None) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Yields (images, labels) of the first `count` shards, or of all."""
        for shard in self._shards.read(count):
            yield shard["images"], shard.get("labels")

    def finish(self, num_samples: int) -> None:
        """Streams the shards into `samples.npz` and removes them."""
        images, labels = next(self.read(1))
        scratch = self.result.with_name("samples.npz.tmp")
        with zipfile.ZipFile(scratch, "w", zipfile.ZIP_STORED) as archive:
            shape = (num_samples, *images.shape[1:])
            _stream(archive, "arr_0", np.uint8, shape, (shard for shard, _ in self.read()))
            if labels is not None:
                parts = (shard.astype(np.int64) for _, shard in self.read())
                _stream(archive, "arr_1", np.int64, (num_samples,), parts)
        os.replace(scratch, self.result)
        self._shards.remove()


def _stream(archive, name: str, dtype, shape: tuple[int, ...], parts: Iterator[np.ndarray]) -> None:
    """Writes one array of an npz, of which only a part is in memory at a time."""
    member = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
    with archive.open(member, "w", force_zip64=True) as file:
        header = {
            "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
            "fortran_order": False,
            "shape": shape,
        }
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(np.ascontiguousarray(part).tobytes())
