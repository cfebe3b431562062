import io
import os
import struct

import numpy as np
import pytest
from PIL import Image

from iddpm_jax.data import image_files
from iddpm_jax.data.image_files import read_bounded, read_exact
from iddpm_jax.data.images import BadImageError
from iddpm_jax.errors import UsageError


def test_read_exact_takes_the_very_pixels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_exact(str(tmp_path / "a.png"), (8, 8, 3)), pixels)
    deep = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    Image.fromarray(deep).save(tmp_path / "b.png")
    gray = read_exact(str(tmp_path / "b.png"), (8, 8, 1))
    np.testing.assert_array_equal(gray[..., 0], np.round(deep / 257))


def test_read_exact_refuses_what_is_no_image_of_that_size(tmp_path):
    Image.new("L", (9, 8)).save(tmp_path / "a.png")
    with pytest.raises(UsageError, match="is 9 x 8, the model needs 8 x 8"):
        read_exact(str(tmp_path / "a.png"), (8, 8, 1))
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "text.png").write_text("no image")
    # A program, which Pillow would have run.
    (tmp_path / "a.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")
    reasons = {
        "pipe.png": "it is not a regular file",
        "text.png": "it is no image of the formats",
        "a.eps": "it is no image of the formats",
        "absent.png": "No such file",
    }
    for name, reason in reasons.items():
        with pytest.raises(UsageError, match=f"cannot be read as an image: .*{reason}"):
            read_exact(str(tmp_path / name), (8, 8, 1))


def test_read_exact_decodes_no_bomb(tmp_path):
    data = bytearray(_png())
    data[16:24] = struct.pack(">II", 60_000, 60_000)
    (tmp_path / "bomb.png").write_bytes(data)
    with pytest.raises(UsageError, match=r"cannot be read as an image|is 60000 x 60000"):
        read_exact(str(tmp_path / "bomb.png"), (8, 8, 1))


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_read_bounded_counts_what_it_reads(monkeypatch):
    monkeypatch.setattr(image_files, "MAX_FILE_SIZE", 100)
    assert read_bounded(io.BytesIO(bytes(100))) == bytes(100)
    with pytest.raises(BadImageError, match="more than 100 bytes"):
        read_bounded(io.BytesIO(bytes(101)))
