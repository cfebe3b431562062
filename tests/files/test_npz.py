import io
import os
import tracemalloc
import zipfile

import numpy as np
import pytest

from iddpm_jax.files.npz import ArrayKind, DamagedError, check_npz, open_npz, read_npz

RANDOM = np.random.default_rng(0)
ARRAYS = {
    "images": RANDOM.integers(0, 256, (7, 3, 3), dtype=np.uint8),
    "labels": RANDOM.integers(0, 9, 7),
    "name": np.array("dög"),
}
KINDS = {name: ArrayKind(array.shape, array.dtype) for name, array in ARRAYS.items()}


def _with_header(path, descr="|u1", shape=(4,), data=b"1234", order=False, version=1):
    """Writes an npz of one array `x`, whose header says what it is told to say."""
    values = {"descr": descr, "fortran_order": order, "shape": shape}
    header = io.BytesIO()
    (np.lib.format.write_array_header_1_0, np.lib.format.write_array_header_2_0)[version - 1](
        header, values
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", header.getvalue() + data)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_open_npz_reads_what_numpy_wrote(tmp_path, save):
    save(tmp_path / "a.npz", **ARRAYS)
    with open_npz(tmp_path / "a.npz", compressed=True) as npz:
        assert npz.names == list(ARRAYS)
        for name, array in ARRAYS.items():
            assert npz.kind(name) == KINDS[name]
            np.testing.assert_array_equal(npz.read(name), array)
        for count, sizes in ((None, [3, 3, 1]), (4, [3, 1]), (0, [])):
            parts = list(npz.rows("images", 3, count))
            assert [len(part) for part in parts] == sizes
            joined = np.concatenate([ARRAYS["images"][:0], *parts])
            np.testing.assert_array_equal(joined, ARRAYS["images"][:count])


def test_read_npz_reads_what_is_asked_for_and_nothing_that_is_compressed(tmp_path):
    np.savez(tmp_path / "a.npz", **ARRAYS)
    assert list(read_npz(tmp_path / "a.npz", ("labels",))) == ["labels"]
    check_npz(tmp_path / "a.npz", KINDS)
    np.savez_compressed(tmp_path / "b.npz", **ARRAYS)
    for read in (read_npz, lambda path: check_npz(path, KINDS)):
        with pytest.raises(DamagedError, match=r"b\.npz is damaged: \w+ is compressed, which none"):
            read(tmp_path / "b.npz")


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"shape": (2**40,)}, "x is too small: 1,099,511,627,776 bytes by its header, 4"),
        ({"shape": (2**70, 0, 2**70)}, "x is too large: 0 bytes by its header, 4"),
        ({"shape": (-4,)}, "no plain array"),
        ({"shape": (3,)}, "x is too large: 3 bytes by its header, 4"),
        ({"shape": (5,)}, "x is too small: 5 bytes by its header, 4"),
        ({"descr": "|O", "shape": ()}, "no plain array"),
        ({"descr": "<U0"}, "no plain array"),
        ({"descr": "nonsense"}, "not a valid dtype"),
        ({"version": 2}, "of another version"),
        ({"data": b""}, "x is too small"),
    ],
)
def test_read_npz_believes_no_header_and_takes_no_memory_for_it(tmp_path, header, reason):
    _with_header(tmp_path / "a.npz", **header)
    tracemalloc.start()
    try:
        with pytest.raises(DamagedError, match=reason) as error:
            read_npz(tmp_path / "a.npz")
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert "\n" not in str(error.value)


def test_open_npz_compares_what_the_archive_says_with_the_file(tmp_path):
    path = tmp_path / "a.npz"
    _with_header(path, shape=(2**30,))
    data = bytearray(path.read_bytes())
    directory = data.index(b"PK\x01\x02")
    data[directory + 20 : directory + 28] = (2**30 + 128).to_bytes(4, "little") * 2
    path.write_bytes(data)
    with pytest.raises(DamagedError, match="too small for the 1,073,741,952 bytes of x"):
        read_npz(path)


def test_rows_are_those_of_arrays_in_c_order(tmp_path):
    array = np.asfortranarray(np.arange(6).reshape(2, 3))
    np.savez(tmp_path / "a.npz", x=array)
    np.testing.assert_array_equal(read_npz(tmp_path / "a.npz")["x"], array)
    refused = pytest.raises(DamagedError, match="in Fortran's order")
    with refused, open_npz(tmp_path / "a.npz") as npz:
        next(npz.rows("x", 1))


def test_read_npz_finds_every_flipped_bit_or_reads_what_was_written(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, **ARRAYS)
    data = path.read_bytes()
    for position in RANDOM.integers(0, len(data), 400):
        damaged = bytearray(data)
        damaged[position] ^= 1 << RANDOM.integers(8)
        path.write_bytes(damaged)
        try:
            found = read_npz(path, tuple(ARRAYS))
        except DamagedError:
            continue
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("make", [lambda path: None, os.mkdir, os.mkfifo])
def test_open_npz_takes_regular_files_only(tmp_path, make):
    make(tmp_path / "a.npz")  # A pipe is not waited for.
    reason = "No such file|not a regular file"
    with pytest.raises(DamagedError, match=reason), open_npz(tmp_path / "a.npz"):
        pass
