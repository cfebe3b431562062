import io
import os
import tracemalloc
import zipfile

import numpy as np
import pytest

from iddpm_jax.errors import UsageError
from iddpm_jax.sampling.base_samples import read_folder, read_npz

SHAPE = (4, 4, 1)


def _npz(path, shape, data=b"", kind=zipfile.ZIP_STORED, descr="|u1"):
    header = io.BytesIO()
    values = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, values)
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr("arr_0.npy", header.getvalue() + data)
    return str(path)


@pytest.mark.parametrize("number", [2**28, 2**61, 2**70, -1])
@pytest.mark.parametrize("count", [0, 1000])
def test_read_npz_refuses_absurd_sizes_and_takes_no_memory_for_them(tmp_path, number, count):
    path = _npz(tmp_path / "a.npz", (number, *SHAPE), bytes(64))
    tracemalloc.start()
    try:
        with pytest.raises(UsageError, match=r"too small|no plain array|is cut off"):
            read_npz(path, count if number > 0 else 0, SHAPE)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_read_npz_says_what_there_is_no_memory_for(tmp_path, monkeypatch):
    def full(*arguments):
        raise MemoryError

    path = _npz(tmp_path / "a.npz", (2, *SHAPE), bytes(32))
    assert read_npz(path, 1, SHAPE).images.shape == (1, *SHAPE)
    monkeypatch.setattr("iddpm_jax.sampling.base_samples.np.empty", full)
    with pytest.raises(UsageError, match="GiB of samples, more than there is memory for"):
        read_npz(path, 0, SHAPE)


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_read_npz_unpacks_nothing_that_cannot_be_bounded(tmp_path, kind):
    path = _npz(tmp_path / "a.npz", (2, *SHAPE), bytes(2**20), kind)
    with pytest.raises(UsageError, match="compressed in a way that numpy does not write"):
        read_npz(path, 0, SHAPE)


def test_base_samples_wait_for_no_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match=r"cannot be read as an npz.*not a regular file"):
        read_npz(str(tmp_path / "pipe"), 0, SHAPE)
    with pytest.raises(UsageError, match="is a pipe or a device"):
        read_folder(str(tmp_path / "pipe"), 0, SHAPE)
