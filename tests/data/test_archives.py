import io
import os
import struct
import tarfile
import tracemalloc
import zipfile

import numpy as np
import pytest
from PIL import Image

from iddpm_jax.data import DataOptions, archives, image_files, load_source
from iddpm_jax.data.images import BadImageError
from iddpm_jax.data.listing import list_images
from iddpm_jax.errors import UsageError


def _png(value: int = 7) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def _zip(path, members, kind=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def _tar(path, members):
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def _options(path, **options):
    return DataOptions("folder", 4, 1, dir=str(path), **options)


@pytest.mark.parametrize("claimed", [100, 2**26])
@pytest.mark.parametrize("kind", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_list_zip_bounds_what_is_unpacked_whatever_is_claimed(tmp_path, monkeypatch, claimed, kind):
    monkeypatch.setattr(image_files, "MAX_FILE_SIZE", 2**21)
    path = _zip(tmp_path / "a.zip", {"a.png": bytes(2**26)}, kind)
    data = bytearray(path.read_bytes())
    directory = data.rindex(b"PK\x01\x02")
    data[directory + 24 : directory + 28] = struct.pack("<I", claimed)
    path.write_bytes(data)
    listing = list_images(path)
    tracemalloc.start()
    try:
        with pytest.raises(BadImageError):
            listing.read("a.png")
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_list_zip_refuses_what_is_damaged_and_says_why_a_member_is_bad(tmp_path):
    path = _zip(tmp_path / "a.zip", {"a.png": _png(), "b.png": _png()})
    data = bytearray(path.read_bytes())
    directory = data.index(b"PK\x01\x02")
    data[directory + 8] |= 1  # Encrypted, as it says.
    path.write_bytes(data)
    with pytest.raises(BadImageError, match="is encrypted"):
        list_images(path).read("a.png")
    assert len(load_source(_options(path))) == 1
    data[directory + 10] = 99  # A way to compress that nobody knows.
    path.write_bytes(data)
    with pytest.raises(BadImageError, match="neither stored as it is nor deflated"):
        list_images(path).read("a.png")
    before = bytes(data)
    end = data.rindex(b"PK\x05\x06")  # Every member begins 2,000 bytes before it can.
    data[end + 16 : end + 20] = struct.pack("<I", 2000 + directory)
    path.write_bytes(data)
    with pytest.raises(BadImageError, match="Invalid argument"):
        list_images(path).read("b.png")
    data = bytearray(before)
    data[directory : directory + 4] = b"XXXX"
    path.write_bytes(data)
    with pytest.raises(UsageError, match="is a damaged zip archive: BadZipFile"):
        list_images(path)


def test_a_zip_without_a_usable_image_says_what_the_first_one_lacks(tmp_path):
    path = _zip(tmp_path / "a.zip", {"a.png": b"no image"})
    for cache_mb in (0, 1):
        with pytest.raises(UsageError, match=r"none of the 1 images.*'a\.png': it is no image"):
            load_source(_options(path, cache_mb=cache_mb)).batch(np.arange(1))


def _with_size(header: bytearray, size: int) -> bytes:
    """A tar header of another size, in base 256, with its checksum."""
    header[124:136] = (size % 256**12).to_bytes(12, "big") if size < 0 else b"%011o\0" % size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
@pytest.mark.parametrize("size", [-5, -(2**40), 8**11 - 1])
def test_list_tar_reads_no_more_than_a_header_can_hold(tmp_path, kind, size):
    path = _tar(tmp_path / "a.tar", {"a.png": _png(), "b.png": _png()})
    data = bytearray(path.read_bytes())
    header = data[1024:1536]
    header[156:157] = kind
    data[1024:1536] = _with_size(header, size)
    path.write_bytes(data + bytes(2**24))
    tracemalloc.start()
    try:
        with pytest.raises(UsageError, match=r"is damaged|is a damaged tar archive"):
            list_images(path)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("make", [_zip, _tar])
def test_archives_that_are_cut_short_while_they_are_read_are_no_bad_images(tmp_path, make):
    path = make(tmp_path / "archive", {f"{i}.png": os.urandom(20_000) for i in range(9)})
    listing = list_images(path)
    listing.read("0.png")
    os.truncate(path, 300)
    with pytest.raises(OSError, match="is not as long as when it was opened"):
        listing.read("8.png")


@pytest.mark.parametrize("make", [_zip, _tar])
def test_names_of_members_are_looked_up_and_never_written(tmp_path, make):
    inside = tmp_path / "inside"
    inside.mkdir()
    names = {"../../x_1.png": _png(1), "/etc/x_2.png": _png(2), "/../x_3.png": _png(3)}
    source = load_source(_options(make(inside / "archive", names), labels="prefix"))
    assert sorted(source.images[:, 0, 0, 0].tolist()) == [1, 2, 3]
    assert [path.name for path in tmp_path.rglob("*")] == ["inside", "archive"]


def test_a_tar_that_holds_a_zip_is_a_tar(tmp_path):
    inner = _zip(tmp_path / "a.zip", {"z.png": _png()})
    path = _tar(tmp_path / "a.tar", {"a.png": _png(), "a.zip": inner.read_bytes()})
    assert list_images(path).names == ("a.png",)
    assert archives.is_tar(path)
    assert not archives.is_tar(inner)


def test_list_images_waits_for_no_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/null"):
        with pytest.raises(UsageError, match="is a pipe or a device"):
            load_source(_options(path))
    folder = tmp_path / "images"
    folder.mkdir()
    os.mkfifo(folder / "a.png")
    (folder / "b.png").write_bytes(_png())
    (folder / "c.png").mkdir()
    (folder / "d.png").symlink_to("d.png")
    assert len(load_source(_options(folder))) == 1
