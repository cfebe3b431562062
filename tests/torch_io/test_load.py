import io
import pathlib
import struct
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch

from iddpm_jax.errors import UsageError
from iddpm_jax.torch_io import load as torch_load
from iddpm_jax.torch_io.files import read_state_dict
from iddpm_jax.torch_io.load import load


@pytest.fixture(scope="module")
def whole(golden) -> bytes:
    """The golden network's zip archive."""
    return (golden.folder / "small_checkpoint.zip.pt").read_bytes()


def _positions(data: bytes) -> list[int]:
    """Bytes of every kind: of each record's header, name and contents, and of what is after."""
    positions = []
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
        directory = archive.start_dir
    for i, entry in enumerate(entries):
        start = entry.header_offset
        name, extra = struct.unpack("<HH", data[start + 26 : start + 30])
        contents = start + 30 + name + extra
        # A byte of its header, which differs from record to record, then one of each part.
        positions += [start + i % 30, start + 30 + i % name, contents + i % entry.file_size]
        positions += [contents + entry.file_size - 1]
    # The directory's entries have 46 bytes before their names.
    positions += range(directory, len(data), 37)
    return positions + list(range(len(data) - 22, len(data)))


def test_load_gives_the_weights_or_refuses_whichever_bit_is_flipped(whole, tmp_path):
    file = tmp_path / "x.pt"
    file.write_bytes(whole)
    right = {name: array.copy() for name, array in read_state_dict(file).items()}
    refused, positions = 0, _positions(whole)[::2]
    for number, position in enumerate(positions):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << number % 8
        file.write_bytes(flipped)
        try:
            arrays = read_state_dict(file)
        except UsageError:
            refused += 1
            continue
        assert arrays.keys() == right.keys(), position
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, right[name], err_msg=f"bit of byte {position}")
    # The others are of fields that nobody reads, such as the times of records.
    assert len(positions) > 250
    assert refused > len(positions) / 2


def test_load_names_the_record_that_is_damaged(whole, tmp_path):
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 4
    (tmp_path / "x.pt").write_bytes(damaged)
    with pytest.raises(UsageError, match=r"x\.pt is damaged: \S+/data/\d+ in it is not what"):
        load(tmp_path / "x.pt")


def _rewritten(data: bytes, changed: dict[str, bytes]) -> bytes:
    """The archive with other contents of some records, each with the right CRC-32."""
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(packed, "w") as target:
        for name in source.namelist():
            target.writestr(name, changed.get(name, source.read(name)))
    return packed.getvalue()


@pytest.mark.parametrize("size", [0, 12, 20], ids=["none of it", "shorter", "longer"])
def test_load_refuses_a_record_that_is_not_as_large_as_its_tensor(tmp_path, size):
    weights = {"a": torch.arange(4.0), "b": torch.ones(1000)}
    torch.save(weights, tmp_path / "x.pt")
    data = (tmp_path / "x.pt").read_bytes()
    (tmp_path / "x.pt").write_bytes(_rewritten(data, {}))
    torch.testing.assert_close(load(tmp_path / "x.pt"), weights)
    (tmp_path / "x.pt").write_bytes(_rewritten(data, {"x/data/0": bytes(size)}))
    with pytest.raises(UsageError, match=r"x\.pt is damaged: its tensors take 2 storages of 4016"):
        load(tmp_path / "x.pt")


def test_load_refuses_an_archive_with_a_name_twice(tmp_path):
    torch.save({"a": torch.ones(4)}, tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt", "a") as archive:
        archive.writestr("X/Data/0", np.zeros(4, np.float32).tobytes())
    with pytest.raises(UsageError, match="not laid out as torch writes"):
        load(tmp_path / "x.pt")


def test_load_takes_tensors_that_are_empty_or_share_a_storage(tmp_path):
    base = torch.arange(6.0)
    weights = {"a": base[:2], "b": base.view(2, 3), "c": torch.zeros(0, 3), "d": torch.ones(2)}
    torch.save(weights, tmp_path / "x.pt")
    torch.testing.assert_close(load(tmp_path / "x.pt"), weights)


def test_load_reads_records_a_piece_at_a_time(tmp_path, monkeypatch):
    torch.save({"a": torch.zeros(2**20)}, tmp_path / "x.pt")
    pieces = []
    read = zipfile.ZipExtFile.read
    monkeypatch.setattr(
        zipfile.ZipExtFile, "read", lambda self, n=-1: pieces.append(n) or read(self, n)
    )
    load(tmp_path / "x.pt")
    assert pieces
    assert all(0 < n <= 2**20 for n in pieces)


def test_load_refuses_a_legacy_file_whose_storages_have_other_sizes(tmp_path):
    weights = {"a": torch.ones(4), "b": torch.ones(1000)}
    torch.save(weights, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    data = (tmp_path / "x.pt").read_bytes()
    size = data.rindex(struct.pack("<q", 4) + struct.pack("<f", 1))
    changed = data[:size] + struct.pack("<q", 3) + data[size + 8 :]
    for name, contents, message in (
        ("x", changed, "is damaged|cannot be read"),
        ("longer", data + b"\0", "1 bytes are left over"),
        ("shorter", data[:-1], "is truncated"),
    ):
        (tmp_path / f"{name}.pt").write_bytes(contents)
        with pytest.raises(UsageError, match=message):
            load(tmp_path / f"{name}.pt")


def test_load_bounds_what_a_legacy_file_claims(tmp_path):
    torch.save({"a": torch.ones(70_000)}, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    data = (tmp_path / "x.pt").read_bytes()
    # The number of elements in the pickle, a four-byte integer.
    claim = data.index(b"J" + struct.pack("<i", 70_000))
    (tmp_path / "x.pt").write_bytes(
        data[: claim + 1] + struct.pack("<i", 10**8) + data[claim + 5 :]
    )
    with pytest.raises(UsageError, match="claim 400000000 bytes, more than the file has"):
        load(tmp_path / "x.pt")


def test_load_says_that_a_legacy_file_is_truncated(golden, tmp_path):
    data = (golden.folder / "small_checkpoint.legacy.pt").read_bytes()
    # Within the pickle, within a name in it, within the weights.
    for keep in [*range(25, 900, 17), len(data) // 2, len(data) - 1]:
        (tmp_path / "x.pt").write_bytes(data[:keep])
        with pytest.raises(UsageError, match=r"x\.pt.*; it is truncated"):
            load(tmp_path / "x.pt")


def _saved(save) -> bytes:
    file = io.BytesIO()
    save(file)
    return file.getvalue()


OTHERS = {
    "a PNG image": b"\x89PNG\r\n\x1a\n" + bytes(30),
    "a JPEG image": b"\xff\xd8\xff\xe0" + bytes(30),
    "arrays of NumPy": _saved(lambda file: np.savez(file, x=np.zeros(3))),
    "an array of NumPy": _saved(lambda file: np.save(file, np.zeros(3))),
    "a zip archive of something else": _saved(
        lambda file: zipfile.ZipFile(file, "w").writestr("readme", b"hello")
    ),
    "a web page": b"<!DOCTYPE html>\n<html>Not found</html>",
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n",
    "a bare pickle": b"\x80\x04K\x01.",
    "empty": b"",
    "its name should say": safetensors.torch.save({"a": torch.ones(3)}),
    "something else, no file of torch": b"hello, world",
}


@pytest.mark.parametrize("kind", OTHERS)
def test_load_says_what_a_file_is_that_is_none_of_torch(tmp_path, kind):
    (tmp_path / "x.pt").write_bytes(OTHERS[kind])
    with pytest.raises(UsageError, match=rf"x\.pt cannot be read: it is .*{kind}") as error:
        load(tmp_path / "x.pt")
    assert "Python objects" not in str(error.value)


def test_load_names_a_file_that_is_not_there(tmp_path: pathlib.Path):
    with pytest.raises(UsageError, match="is not a file"):
        load(tmp_path / "x.pt")


def test_require_torch_says_in_a_sentence_that_it_is_not_installed(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(UsageError, match=r"pip install -r requirements-torch\.txt"):
        torch_load.require_torch()
