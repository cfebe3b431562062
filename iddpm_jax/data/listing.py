"""Lists the image files of a folder and all below it, or of a zip or tar archive."""

import os
import pathlib
import zipfile

from absl import logging

from iddpm_jax.data import archives
from iddpm_jax.data.image_files import Listing, is_image, read_bounded
from iddpm_jax.data.images import EXTENSIONS, BadImageError
from iddpm_jax.errors import UsageError
from iddpm_jax.files.untrusted import open_regular

_MAX_DEPTH = 100  # Folders within folders.


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
        elif not path.is_file():  # Opening a pipe would wait for its other end.
            raise UsageError(
                f"data.dir={str(path)!r} is a pipe or a device, not a folder or an archive"
            )
        elif archives.is_tar(path):
            listing = archives.list_tar(path)
        elif zipfile.is_zipfile(path):
            listing = archives.list_zip(path)
        else:
            raise UsageError(
                f"data.dir={str(path)!r} is neither a folder nor a zip or tar archive (a tar "
                "archive must not be compressed)"
            )
    except OSError as error:
        raise UsageError(f"data.dir={str(path)!r} cannot be read: {error}") from error
    if not listing.names:
        raise UsageError(
            f"data.dir={str(path)!r} has no images; looked for .{', .'.join(EXTENSIONS)} in it "
            "and all folders below"
        )
    return listing


def _folder(root: pathlib.Path) -> Listing:
    names: list[str] = []
    no_files: set[str] = set()

    def walk(folder: pathlib.Path, prefix: str, parents: frozenset[str]) -> None:
        real = os.path.realpath(folder)
        if real in parents:
            logging.warning("%s is a symbolic link to a folder above it; left out", folder)
            return
        if len(parents) > _MAX_DEPTH:
            raise UsageError(
                f"data.dir={str(root)!r} has more than {_MAX_DEPTH} folders within each other"
            )
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        for entry in found:
            # What a link leads to is asked of pathlib, which takes one that leads nowhere.
            path = folder / entry.name if entry.is_symlink() else entry
            if is_image(entry.name):
                names.append(prefix + entry.name)
                # Asked now: a file that is gone later is one that the system fails to read.
                if not path.is_file():
                    no_files.add(prefix + entry.name)
            elif path.is_dir():
                walk(folder / entry.name, f"{prefix}{entry.name}/", parents | {real})

    walk(root, "", frozenset())

    def read(name: str) -> bytes:
        if name in no_files:
            raise BadImageError("it is no file, or a link to nothing")
        with os.fdopen(open_regular(root / name, os.O_RDONLY), "rb") as file:
            return read_bounded(file)

    return Listing(tuple(names), read)
