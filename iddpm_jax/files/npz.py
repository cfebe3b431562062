"""Arrays of an npz file that nobody has to trust, read by numpy behind bounds; and written.

numpy parses the headers and loads no pickle. Before an array is read, the size that its header
says is compared with what the archive has of it, and that with the file: a byte that is stored
stands for itself, a deflated one for at most 1,032. `np.load` alone would take the memory that a
header asks for, and reads no part of an array without the rest.
"""

import contextlib
import io
import os
import zipfile
from collections.abc import Iterator, Mapping
from typing import IO, NamedTuple

import numpy as np

from iddpm_jax.errors import UsageError
from iddpm_jax.files.untrusted import open_regular

_EPOCH = (1980, 1, 1, 0, 0, 0)  # The same bytes whenever a file is written.
_PIECE = 2**20  # Bytes that are read at a time.
_DEFLATED_RATIO = 1032  # Bytes that one of a deflated file stands for, at most.


class ArrayKind(NamedTuple):
    """What an array is, before it is read."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def size(self) -> int:
        """Bytes of its values."""
        return self.row_size * self.shape[0] if self.shape else self.dtype.itemsize

    @property
    def row_size(self) -> int:
        """Bytes of what one index of the first axis selects."""
        count = 1
        for length in self.shape[1:]:  # In Python's integers, which do not overflow.
            count *= length
        return count * self.dtype.itemsize


class DamagedError(UsageError):
    """A file is not an npz, or not what was written; `reason` says it without the file's name."""

    def __init__(self, path: str | os.PathLike[str], reason: str):
        super().__init__(f"{path} is damaged: {reason}")
        self.reason = reason


@contextlib.contextmanager
def open_npz(path: str | os.PathLike[str], *, compressed: bool = False) -> Iterator["Npz"]:
    """Opens an npz file; within, whatever numpy or zipfile raises is a DamagedError.

    Args:
      compressed: whether its arrays may be deflated. Those that this program writes are not.
    """
    try:
        with (
            os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file,
            zipfile.ZipFile(file) as archive,
        ):
            yield Npz(archive, os.fstat(file.fileno()).st_size, compressed)
    except (UsageError, MemoryError):
        raise
    except Exception as error:  # Damaged archives and headers raise a dozen kinds.
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DamagedError(path, reason) from error


class Npz:
    """The arrays of an open npz file, each checked before anything of it is read."""

    def __init__(self, archive: zipfile.ZipFile, file_size: int, compressed: bool):
        self._archive, self._file_size, self._compressed = archive, file_size, compressed

    @property
    def names(self) -> list[str]:
        return [name.removesuffix(".npy") for name in self._archive.namelist()]

    def kind(self, name: str) -> ArrayKind:
        """Shape and dtype of an array, of whose values there are as many bytes as they take.

        Raises:
          ValueError: there are not, or it is no plain array in C order.
        """
        kind, fortran_order = self._header(name)
        if fortran_order:
            raise ValueError(f"{name} is no plain array, but in Fortran's order")
        return kind

    def read(self, name: str) -> np.ndarray:
        """All of an array, its checksum compared."""
        self._header(name)
        with self._open(name) as member:
            return np.lib.format.read_array(member, allow_pickle=False)

    def rows(self, name: str, at_once: int, count: int | None = None) -> Iterator[np.ndarray]:
        """Yields an array, or its first `count` rows, at most `at_once` rows at a time."""
        kind = self.kind(name)
        count = kind.shape[0] if count is None else count
        with self._open(name) as member:
            _read_header(member)
            for first in range(0, count, at_once):
                rows = min(at_once, count - first)
                values = np.frombuffer(member.read(rows * kind.row_size), kind.dtype)
                yield values.reshape(rows, *kind.shape[1:])

    def check(self, name: str) -> None:
        """Reads an array through in small pieces; ValueError if its checksum is wrong."""
        with self._open(name) as member:
            while member.read(_PIECE):
                pass

    def _header(self, name: str) -> tuple[ArrayKind, bool]:
        with self._open(name) as member:
            kind, fortran_order = _read_header(member)
            values = self._archive.getinfo(f"{name}.npy").file_size - member.tell()
        if kind.size != values:
            size = "too small" if values < kind.size else "too large"
            raise ValueError(
                f"{name} is {size}: {kind.size:,} bytes by its header, {values:,} are there"
            )
        return kind, fortran_order

    def _open(self, name: str) -> IO[bytes]:
        info = self._archive.getinfo(f"{name}.npy")
        # Other kinds unpack all that they have at once, however much that becomes.
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{name} is compressed in a way that numpy does not write")
        deflated = info.compress_type == zipfile.ZIP_DEFLATED
        if deflated and not self._compressed:
            raise ValueError(f"{name} is compressed, which none of ours is")
        if info.file_size > self._file_size * (_DEFLATED_RATIO if deflated else 1):
            raise ValueError(f"the file is too small for the {info.file_size:,} bytes of {name}")
        return self._archive.open(info)


def _read_header(member: IO[bytes]) -> tuple[ArrayKind, bool]:
    """What an array is, and whether in Fortran's order; afterwards `member` is at its values."""
    # Headers of other versions, which plain arrays do not need, may be huge.
    if np.lib.format.read_magic(member) != (1, 0):
        raise ValueError("the header of an array is of another version")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(member)
    if dtype.hasobject or dtype.itemsize == 0 or min(shape, default=0) < 0:
        raise ValueError(f"there is no plain array, but {dtype} {shape}")
    return ArrayKind(shape, dtype), fortran_order


def read_npz(
    path: str | os.PathLike[str], only: tuple[str, ...] | None = None
) -> dict[str, np.ndarray]:
    """Reads the arrays of a file of ours, or those named in `only`; each no larger than it.

    Raises:
      DamagedError: it cannot be read; or a checksum, size or kind is wrong.
    """
    with open_npz(path) as npz:
        return {name: npz.read(name) for name in only or npz.names}


def check_npz(path: str | os.PathLike[str], expected: Mapping[str, ArrayKind]) -> None:
    """Reads a file of ours through once, in small pieces.

    Raises:
      DamagedError: its arrays are not exactly these, or a checksum is wrong.
    """
    with open_npz(path) as npz:
        if sorted(npz.names) != sorted(expected):
            raise ValueError(f"it has the arrays {npz.names[:5]}, not {sorted(expected)}")
        for name, kind in expected.items():
            found = npz.kind(name)
            if found != kind:
                raise ValueError(
                    f"{name} is {found.dtype} {found.shape}, not {kind.dtype} {kind.shape}"
                )
            npz.check(name)


def read_rows(path: str | os.PathLike[str], name: str, at_once: int) -> Iterator[np.ndarray]:
    """Yields an array of a file of ours, at most `at_once` rows at a time."""
    with open_npz(path) as npz:
        yield from npz.rows(name, at_once)


def write_array(
    archive: zipfile.ZipFile, name: str, kind: ArrayKind, parts: Iterator[np.ndarray]
) -> None:
    """Writes one array, of which only a part is in memory at a time.

    Raises:
      ValueError: the parts together are not as large as said.
    """
    left = kind.size
    member = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
    with archive.open(member, "w", force_zip64=True) as file:
        header = {
            "descr": np.lib.format.dtype_to_descr(kind.dtype),
            "fortran_order": False,
            "shape": kind.shape,
        }
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            data = np.ascontiguousarray(part, kind.dtype).tobytes()
            left -= len(data)
            file.write(data)
    if left:
        raise ValueError(f"{name}: {left} bytes of {kind.size} are missing")


def npz_bytes(*arrays: np.ndarray, **named: np.ndarray) -> bytes:
    """What `np.savez` would write: `arr_0`, `arr_1`, … and the named ones."""
    buffer = io.BytesIO()
    # An array may have any name but that of an option of newer numpys, `allow_pickle`.
    np.savez(buffer, *arrays, **named)  # pyrefly: ignore[bad-argument-type]
    return buffer.getvalue()
