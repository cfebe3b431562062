"""Arrays of an npz of ours, read and written in pieces, and not trusted.

Ours are stored without compression, so that an array is no larger than the file it is in.
"""

import io
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import BinaryIO, NamedTuple

import numpy as np

from iddpm_jax.errors import UsageError

_EPOCH = (1980, 1, 1, 0, 0, 0)  # The same bytes whenever a file is written.
_PIECE = 2**20
# What the readers of archives and of headers raise at damaged ones.
_DAMAGE = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    RuntimeError,  # An encrypted member; NotImplementedError: one that is packed in another way.
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
)


class ArrayKind(NamedTuple):
    """What an array is, before it is read."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def size(self) -> int:
        """Bytes of its values."""
        count = 1
        for length in self.shape:  # In Python's integers, which do not overflow.
            count *= length
        return count * self.dtype.itemsize


class DamagedError(UsageError):
    """A file is not what was written."""


def read_npz(path: pathlib.Path, only: tuple[str, ...] | None = None) -> dict[str, np.ndarray]:
    """Reads the arrays of a file, or those named in `only`; each no larger than the file.

    Raises:
      DamagedError: it cannot be read; or a checksum, size or kind is wrong.
    """
    arrays = {}
    try:
        _check_regular(path)
        with zipfile.ZipFile(path) as archive:
            names = only or [name.removesuffix(".npy") for name in archive.namelist()]
            for name in names:
                with _open_stored(archive, name) as member:
                    kind = _read_kind(member)
                    if kind.size > path.stat().st_size:
                        raise ValueError(f"{name} claims {kind.size:,} bytes, more than there are")
                    data = member.read(kind.size)
                    if len(data) < kind.size or member.read(1):
                        raise ValueError(f"{name} has not the size that it claims")
                arrays[name] = np.frombuffer(data, kind.dtype).reshape(kind.shape)
    except _DAMAGE as error:
        raise _damaged(path, error) from error
    return arrays


def check_npz(path: pathlib.Path, expected: Mapping[str, ArrayKind]) -> None:
    """Reads a file through once, in small pieces.

    Raises:
      DamagedError: its arrays are not exactly these, or a checksum is wrong.
    """
    try:
        _check_regular(path)
        with zipfile.ZipFile(path) as archive:
            names = sorted(name.removesuffix(".npy") for name in archive.namelist())
            if names != sorted(expected):
                raise ValueError(f"it has the arrays {names[:5]}, not {sorted(expected)}")
            for name, kind in expected.items():
                with _open_stored(archive, name) as member:
                    found = _read_kind(member)
                    if found != kind:
                        raise ValueError(
                            f"{name} is {found.dtype} {found.shape}, not {kind.dtype} {kind.shape}"
                        )
                    # The checksum is compared when the end is reached.
                    if sum(map(len, iter(lambda: member.read(_PIECE), b""))) != kind.size:
                        raise ValueError(f"{name} has not the size that it claims")
    except _DAMAGE as error:
        raise _damaged(path, error) from error


def read_rows(path: pathlib.Path, name: str, rows: int) -> Iterator[np.ndarray]:
    """Yields an array of a file that has been checked, at most `rows` rows at a time."""
    with zipfile.ZipFile(path) as archive, _open_stored(archive, name) as member:
        kind = _read_kind(member)
        each = ArrayKind(kind.shape[1:], kind.dtype).size
        for first in range(0, kind.shape[0], rows):
            count = min(rows, kind.shape[0] - first)
            data = member.read(count * each)
            yield np.frombuffer(data, kind.dtype).reshape(count, *kind.shape[1:])


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


def _check_regular(path: pathlib.Path) -> None:
    if not path.is_file():  # A pipe would be waited for.
        raise ValueError("it is not a regular file")


def _open_stored(archive: zipfile.ZipFile, name: str) -> BinaryIO:
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed, which none of ours is")
    return archive.open(info)


def _read_kind(member: BinaryIO) -> ArrayKind:
    """Shape and dtype of an npy file, up to its values; pickles are refused."""
    if np.lib.format.read_magic(member) != (1, 0):
        raise ValueError("the header of an array is of another version")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(member)
    if fortran_order or dtype.hasobject or dtype.itemsize == 0 or min(shape, default=0) < 0:
        raise ValueError(f"there is no plain array, but {dtype} {shape}")
    return ArrayKind(shape, dtype)


def _damaged(path: pathlib.Path, error: Exception) -> DamagedError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return DamagedError(f"{path} is damaged: {reason}")


def npz_bytes(*arrays: np.ndarray, **named: np.ndarray) -> bytes:
    """What `np.savez` would write: `arr_0`, `arr_1`, … and the named ones."""
    buffer = io.BytesIO()
    np.savez(buffer, *arrays, **named)
    return buffer.getvalue()
