"""Lists and reads the image files of zip and tar archives, in place."""

import errno
import lzma
import os
import pathlib
import posixpath
import struct
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Iterable
from typing import BinaryIO, cast

from absl import logging

from iddpm_jax.data.image_files import MAX_FILE_SIZE, Listing, is_image, read_bounded
from iddpm_jax.data.images import BadImageError
from iddpm_jax.errors import UsageError

_MAX_LINKS = 16  # That one link in a tar archive may lead through.
_MAX_HEADER = 2**20  # Bytes of one header of a tar archive, with its long names.

_CHANGED = "the archive is not as long as when it was opened"

# What Python's readers raise for archives that somebody damaged.
_DAMAGES = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    ValueError,
    OverflowError,
    RuntimeError,  # Also of encrypted members, unknown ways to compress, and endless recursion.
)


def list_zip(path: pathlib.Path) -> Listing:
    """Lists a zip archive; OSError or UsageError where that cannot be."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
    except _DAMAGES as error:
        raise UsageError(
            f"data.dir={str(path)!r} is a damaged zip archive: {type(error).__name__}: {error}"
        ) from error
    size = path.stat().st_size
    local = threading.local()  # A ZipFile has one position, and so one for each thread.

    def read(name: str) -> bytes:
        if not hasattr(local, "archive"):
            local.archive = zipfile.ZipFile(path)
        # Those of other kinds unpack all that they have at once, however much that becomes.
        if members[name].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise BadImageError("it is neither stored as it is nor deflated; pack it anew")
        try:
            with local.archive.open(members[name]) as file:
                return read_bounded(file)
        except BadImageError:
            raise
        except _DAMAGES as error:
            if path.stat().st_size != size:
                raise OSError(errno.EIO, _CHANGED) from error
            raise BadImageError(f"{type(error).__name__}: {error}") from error
        except OSError as error:
            if error.errno == errno.EINVAL:  # A member that begins before the file does.
                raise BadImageError(str(error)) from error
            raise

    return Listing(_sorted_names(members), read)


class _Headers:
    """The file for tarfile, which reads only headers: each of at most `_MAX_HEADER` bytes."""

    def __init__(self, file: BinaryIO):
        self.seek, self.tell, self._read = file.seek, file.tell, file.read

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _MAX_HEADER:
            raise tarfile.ReadError(f"it has a header of {size} bytes")
        return self._read(size)


def is_tar(path: pathlib.Path) -> bool:
    """Whether a file starts with the header of an uncompressed tar archive."""
    with path.open("rb") as file:
        block = file.read(tarfile.BLOCKSIZE)
    try:
        tarfile.TarInfo.frombuf(block, tarfile.ENCODING, "surrogateescape")
    except tarfile.TarError:
        return False
    return True


def list_tar(path: pathlib.Path) -> Listing:
    """Lists a tar archive that is not compressed; OSError or UsageError where that cannot be."""
    entries, end = _tar_entries(path)
    with path.open("rb") as file:
        file.seek(end)
        # tarfile takes whatever is no header for the end, which is a block of zeros.
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise UsageError(f"data.dir={str(path)!r} is damaged or truncated at byte {end}")
    members = {}
    for name in filter(_is_image_path, entries):
        member = _tar_member(entries, name)
        if member is None:
            logging.warning("%s: %r is left out: it is no whole file of the archive", path, name)
        else:
            members[name] = member

    def read(name: str) -> bytes:
        member = members[name]
        if member.size > MAX_FILE_SIZE:
            raise BadImageError(f"it has more than {MAX_FILE_SIZE:,} bytes")
        with path.open("rb") as file:
            data = os.pread(file.fileno(), member.size, member.offset_data)
        if len(data) != member.size:
            raise OSError(errno.EIO, _CHANGED)
        return data

    return Listing(_sorted_names(members), read)


def _tar_entries(path: pathlib.Path) -> tuple[dict[str, tarfile.TarInfo], int]:
    """All entries by name, and where they end."""
    try:
        entries = {}
        with path.open("rb") as file, _open_tar(file) as archive:
            position = -1
            while (member := archive.next()) is not None:
                # A negative size would lead backwards, or to reading everything.
                if member.size < 0 or member.offset <= position:
                    raise tarfile.ReadError(f"{member.name!r} has the size {member.size}")
                position = member.offset
                entries[posixpath.normpath(member.name)] = member
            return entries, archive.offset
    except _DAMAGES as error:
        raise UsageError(
            f"data.dir={str(path)!r} is a damaged tar archive: {type(error).__name__}: {error}"
        ) from error


def _open_tar(file: BinaryIO) -> tarfile.TarFile:
    headers = cast(BinaryIO, _Headers(file))  # It has what tarfile uses of one.
    return tarfile.open(mode="r:", fileobj=headers)


def _tar_member(entries: dict[str, tarfile.TarInfo], name: str) -> tarfile.TarInfo | None:
    """The file of a name, found along links within the archive; None if there is none."""
    for _ in range(_MAX_LINKS):
        member = entries.get(name)
        if member is None or not (member.isreg() or member.islnk() or member.issym()):
            return None
        if member.isreg():
            return None if member.issparse() else member
        folder = posixpath.dirname(name) if member.issym() else ""
        name = posixpath.normpath(posixpath.join(folder, member.linkname))
    return None


def _is_image_path(name: str) -> bool:
    return is_image(name.rpartition("/")[2])


def _sorted_names(names: Iterable[str]) -> tuple[str, ...]:
    """The names of images, in the order in which a folder with the same files is listed."""
    images = (name for name in names if _is_image_path(name))
    return tuple(sorted(images, key=lambda name: name.split("/")))
