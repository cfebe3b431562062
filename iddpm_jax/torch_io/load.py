"""Loading a file of torch or safetensors that may be damaged or hostile.

Nothing in it is run. torch reads pickles with `weights_only=True`, which builds tensors and plain
containers and refuses everything else. What torch does not check is checked here: whether a zip
archive's records are what was written (their CRC-32), and whether each is as large as the tensors
in it claim. torch itself is optional and imported when a file is read.
"""

import pathlib
import struct
import zipfile
from collections.abc import Sequence
from typing import Any

from iddpm_jax.errors import UsageError

# An archive's pickle only describes the tensors; those of the largest networks take 1 MB.
_LARGEST_PICKLE = 64 * 2**20

_ZIP = b"PK\x03\x04"  # How torch's newer format starts.
# torch's magic number, a pickled integer, with which its older format starts.
_LEGACY = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"

# Kinds of other files that are given by mistake, by how they start.
_OTHER_KINDS = {
    b"\x89PNG\r\n\x1a\n": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"\x93NUMPY": "an array of NumPy (.npy)",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file",
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"version https://git-lfs": "a pointer of Git LFS: fetch the file that it stands for",
    b"<": "a web page or XML",
    b"{": "JSON",
    b"%PDF": "a PDF document",
    b"\x80": "a bare pickle",
}


def require_torch():
    """The module torch.

    Raises:
      UsageError: it is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise UsageError(
            "this command needs PyTorch, which is not installed: "
            "pip install -r requirements-torch.txt"
        ) from error
    return torch


def load(path: pathlib.Path) -> Any:
    """What a file of torch's zip or older format, or a .safetensors, holds, on the CPU.

    The tensors of the zip format are views of the file, which is mapped into memory.

    Raises:
      UsageError: it is missing, truncated, damaged, no such file, or would run code.
    """
    if not path.is_file():
        raise UsageError(f"{path} is not a file")
    if path.suffix == ".safetensors":
        return _load_safetensors(path)
    require_torch()
    with path.open("rb") as file:
        head = file.read(512)
    if head.startswith(_ZIP):
        return _load_archive(path)
    if _LEGACY not in head[:64]:
        raise UsageError(f"{path} cannot be read: it is {_kind(head)}, no file of torch")
    return _load_legacy(path)


def _kind(head: bytes) -> str:
    if not head:
        return "empty"
    if head[257:262] == b"ustar":
        return "a tar archive"
    if head[8:10] == b'{"':
        return "in the format safetensors, which its name should say (.safetensors)"
    known = (kind for start, kind in _OTHER_KINDS.items() if head.startswith(start))
    return next(known, "something else")


def _load_archive(path: pathlib.Path) -> Any:
    sizes = _check_archive(path)
    storages: list = []
    try:
        value = require_torch().load(
            path,
            map_location=lambda storage, location: storages.append(storage) or storage,
            weights_only=True,
            mmap=True,
        )
    except Exception as error:  # torch raises many kinds for what is no file of its.
        raise _refusal(path, error) from error
    # torch cuts the tensors out of the mapped file without a look at the records' sizes. Each
    # starts where some record does, so that the two lists in order of place have to agree.
    claimed = [storage.nbytes() for storage in sorted(storages, key=lambda s: s.data_ptr())]
    if [size for size in claimed if size] != sizes:
        raise UsageError(
            f"{path} is damaged: its tensors take {len(claimed)} storages of {sum(claimed)} bytes, "
            f"its records are {len(sizes)} of {sum(sizes)}, and each should be its storage"
        )
    return value


def _check_archive(path: pathlib.Path) -> list[int]:
    """Reads a zip archive once, a piece at a time, and compares every record with its CRC-32.

    torch stores its archives uncompressed; one that is packed could unfold without end.

    Returns:
      Bytes of each tensor's record that has any, in the order of their place in the file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _check_layout(path, entries)
            damaged = archive.testzip()
    # What zipfile raises of archives that are cut off, changed, or use what it does not know.
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, UnicodeError, struct.error) as e:
        raise UsageError(f"{path} cannot be read; it is truncated or damaged ({shown(e)})") from e
    if damaged is not None:
        raise UsageError(
            f"{path} is damaged: {shown(damaged)} in it is not what was written, as its CRC-32 "
            "says; get the file again (or save it with torch.serialization.set_crc32_options(True))"
        )
    folder = entries[0].filename.split("/")[0] + "/data/"
    records = [entry for entry in entries if entry.filename.startswith(folder)]
    return [e.file_size for e in sorted(records, key=lambda e: e.header_offset) if e.file_size]


def _check_layout(path: pathlib.Path, entries: Sequence[zipfile.ZipInfo]) -> None:
    """UsageError unless an archive, of which nothing has been read yet, is laid out as torch's."""
    names = [entry.filename for entry in entries]
    if not any(name.endswith("/data.pkl") for name in names):
        npz = bool(names) and all(name.endswith(".npy") for name in names)
        kind = "arrays of NumPy (.npz)" if npz else "a zip archive of something else"
        raise UsageError(f"{path} cannot be read: it is {kind}, no file of torch")
    if any(name.endswith("/constants.pkl") for name in names):
        raise UsageError(f"{path} is a TorchScript program; save the model's state dict instead")
    # Where something else comes first, or a name is there twice, another reader may see another
    # archive than this one. torch looks names up without regard to case.
    if min(entry.header_offset for entry in entries) != 0 or len(
        {name.lower() for name in names}
    ) != len(names):
        raise UsageError(f"{path} is refused: it is not laid out as torch writes its archives")
    for entry in entries:
        name = shown(entry.filename)
        if entry.compress_type != zipfile.ZIP_STORED:
            raise UsageError(f"{path} is refused: {name} in it is compressed")
        if entry.file_size != entry.compress_size:
            raise UsageError(f"{path} is damaged: {name} in it has two different sizes")
        if entry.filename.endswith(".pkl") and entry.file_size > _LARGEST_PICKLE:
            raise UsageError(
                f"{path} is refused: the pickle {name} in it has {entry.file_size} bytes, more "
                f"than {_LARGEST_PICKLE}"
            )
    # Records that overlap would be read over and over.
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise UsageError(f"{path} is damaged: its records are larger than the file")


def _load_legacy(path: pathlib.Path) -> Any:
    """Reads torch's older format, which carries no checksum; torch compares storages' sizes."""
    size = path.stat().st_size
    claimed = 0

    def fill(storage, location):
        nonlocal claimed
        claimed += storage.nbytes()
        if claimed > size:
            raise UsageError(
                f"{path}: the tensors claim {claimed} bytes, more than the file has; it is "
                "truncated or damaged"
            )
        # It is filled from the file later, or never: then it has NaN, and no arbitrary memory.
        storage.fill_(255)
        return storage

    with path.open("rb") as file:
        try:
            value = require_torch().load(file, map_location=fill, weights_only=True)
        except UsageError:
            raise
        except Exception as error:  # torch raises many kinds for what is no file of its.
            if file.tell() >= size or "unexpected EOF" in str(error):
                raise UsageError(f"{path} cannot be read; it is truncated") from error
            raise _refusal(path, error) from error
        left = size - file.tell()
    if left:
        raise UsageError(f"{path} is damaged: {left} bytes are left over at its end")
    return value


def _load_safetensors(path: pathlib.Path) -> dict[str, Any]:
    require_torch()
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise UsageError(
            "reading .safetensors needs the package safetensors: "
            "pip install -r requirements-torch.txt"
        ) from error
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, RuntimeError, KeyError) as error:
        raise UsageError(
            f"{path} cannot be read as .safetensors; it is truncated, damaged or something else "
            f"({shown(error)})"
        ) from error


def _refusal(path: pathlib.Path, error: BaseException) -> UsageError:
    """What is said of a file that torch refuses, from its long explanation."""
    for line in str(error).splitlines():
        if "GLOBAL" in line or "Unsupported" in line:
            return UsageError(
                f"{path} is refused: besides tensors it holds Python objects, and loading them "
                f"would run code ({shown(line.strip())})"
            )
    return UsageError(
        f"{path} cannot be read; it is damaged or no file of torch "
        f"({type(error).__name__}: {shown(error)})"
    )


def shown(text: object) -> str:
    """Text from a hostile file, fit for a terminal: one line, short, without control codes."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(str(text).split()))[:200]
