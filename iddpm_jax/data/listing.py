"""Which image files there are: in a folder and all below it, or in a zip or tar archive.

Archives are read in place.
"""

import lzma
import os
import pathlib
import posixpath
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from absl import logging

from iddpm_jax.data.images import EXTENSIONS
from iddpm_jax.errors import UsageError

MAX_FILE_SIZE = 2**28  # Bytes of one image file.
_MAX_LINKS = 16  # That one link in a tar archive may lead through.


class Listing(NamedTuple):
    """Image files, in the order of the reference.

    names: paths relative to the folder or archive, with forward slashes.
    read: a name to the file's bytes; safe to call from several threads; OSError or ValueError
      where it cannot.
    """

    names: tuple[str, ...]
    read: Callable[[str], bytes]


def list_images(path: pathlib.Path) -> Listing:
    """Lists a folder or an archive.

    Raises:
      UsageError: there is no such thing, it cannot be read, or there are no images in it.
    """
    try:
        if path.is_dir():
            listing = _folder(path)
        elif not path.exists():
            raise UsageError(f"data.dir={str(path)!r} does not exist")
        elif zipfile.is_zipfile(path):
            listing = _zip(path)
        elif tarfile.is_tarfile(path):
            listing = _tar(path)
        else:
            raise UsageError(f"data.dir={str(path)!r} is neither a folder nor a zip or tar archive")
    except (OSError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise UsageError(f"data.dir={str(path)!r} cannot be read: {error}") from error
    if not listing.names:
        raise UsageError(
            f"data.dir={str(path)!r} has no images; looked for .{', .'.join(EXTENSIONS)} in it "
            "and all folders below"
        )
    return listing


def _is_image(name: str) -> bool:
    stem, dot, extension = name.rpartition(".")
    return bool(dot) and extension.lower() in EXTENSIONS and not stem.startswith("._")


def _folder(root: pathlib.Path) -> Listing:
    names: list[str] = []

    def walk(folder: pathlib.Path, prefix: str, parents: frozenset[str]) -> None:
        real = os.path.realpath(folder)
        if real in parents:
            logging.warning("%s is a symbolic link to a folder above it; left out", folder)
            return
        for entry in sorted(os.listdir(folder)):
            path = folder / entry
            if _is_image(entry):
                names.append(prefix + entry)
            elif path.is_dir():
                walk(path, f"{prefix}{entry}/", parents | {real})

    walk(root, "", frozenset())

    def read(name: str) -> bytes:
        path = root / name
        if not path.is_file():
            raise UsageError("it is no file")
        _check_size(path.stat().st_size)
        return path.read_bytes()

    return Listing(tuple(names), read)


def _zip(path: pathlib.Path) -> Listing:
    with zipfile.ZipFile(path) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
    local = threading.local()  # A ZipFile has one position, and so one for each thread.

    def read(name: str) -> bytes:
        if not hasattr(local, "archive"):
            local.archive = zipfile.ZipFile(path)
        _check_size(sizes[name])
        try:
            return local.archive.read(name)
        except (RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError) as error:
            raise UsageError(f"{type(error).__name__}: {error}") from error

    return Listing(_sorted_names(sizes), read)


def _tar(path: pathlib.Path) -> Listing:
    try:
        with tarfile.open(path, "r:") as archive:
            entries = {posixpath.normpath(member.name): member for member in archive}
            end = archive.offset
    except tarfile.ReadError as error:
        raise UsageError(
            f"data.dir={str(path)!r} is a damaged tar archive, or a compressed one, which cannot "
            f"be read in place; unpack it, or store it uncompressed ({error})"
        ) from error
    with path.open("rb") as file:
        file.seek(end)
        # tarfile takes whatever is no header for the end, which is a block of zeros.
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise UsageError(f"data.dir={str(path)!r} is damaged or truncated at byte {end}")
    members = {name: _tar_member(entries, name) for name in entries if _is_image_path(name)}
    for name in [name for name, member in members.items() if member is None]:
        logging.warning("%s: %r is left out: it is no whole file of the archive", path, name)
        del members[name]

    def read(name: str) -> bytes:
        member = members[name]
        _check_size(member.size)
        with path.open("rb") as file:
            file.seek(member.offset_data)
            return file.read(member.size)

    return Listing(_sorted_names(members), read)


def _tar_member(entries: dict[str, tarfile.TarInfo], name: str) -> tarfile.TarInfo | None:
    """The file that a name stands for, links within the archive followed."""
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
    return _is_image(name.rpartition("/")[2])


def _sorted_names(names: Sequence[str]) -> tuple[str, ...]:
    """In the order in which the folder would be walked that the archive was made of."""
    images = (name for name in names if _is_image_path(name))
    return tuple(sorted(images, key=lambda name: name.split("/")))


def _check_size(size: int) -> None:
    if size > MAX_FILE_SIZE:
        raise UsageError(f"{size} bytes are more than {MAX_FILE_SIZE}")
