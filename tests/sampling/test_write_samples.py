"""Drawing into a directory, in this process."""

import dataclasses
import os
import shutil
import types

import numpy as np
import pytest
from PIL import Image

from iddpm_jax.errors import UsageError
from iddpm_jax.files.output_directory import lock_and_record
from iddpm_jax.files.shards import ShardedSamples
from iddpm_jax.sampling import generator, write_samples
from iddpm_jax.sampling.inputs import Inputs
from iddpm_jax.sampling.write_samples import Drawing, draw
from tests.test_trained import trained_model

COUNT = 20


@pytest.fixture(scope="module")
def model():
    return trained_model()


def _drawing(model, out, batch_size=8, **changes):
    settings = {"num_samples": COUNT, "seed": 0, "guidance": 1.0, "rgb": False}
    generator = model.generator("ddim", batch_size=batch_size)
    drawing = Drawing(model, generator, settings, out, Inputs(labels=model.label_rule(None)))
    return dataclasses.replace(drawing, **changes)


def _draw(drawing):
    with lock_and_record(drawing.out, drawing.settings):
        return draw(drawing, peer_timeout=0)


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("drawing") / "whole"
    _draw(_drawing(model, out))
    return out


def test_draw_makes_no_path_of_a_name_from_a_file(model, tmp_path):
    names = ("/../../../outside", "..", "a\0b/c")
    hostile = dataclasses.replace(model, class_names=names)
    _draw(_drawing(hostile, tmp_path / "in" / "out", png=True))
    assert os.listdir(tmp_path) == ["in"]
    assert os.listdir(tmp_path / "in") == ["out"]
    files = sorted(os.listdir(tmp_path / "in" / "out" / "png"))
    assert len(files) == COUNT
    assert files[:3] == ["000000________outside.png", "000001__.png", "000002_a_b_c.png"]


def test_draw_adds_single_files_to_what_is_there(model, whole, tmp_path, monkeypatch):
    out = shutil.copytree(whole, tmp_path / "out")
    before = (out / "samples.npz").read_bytes()
    monkeypatch.setattr(generator.Generator, "trajectory", None)  # Nothing is drawn again.
    _draw(_drawing(model, out, png=True))
    assert (out / "samples.npz").read_bytes() == before
    with np.load(out / "samples.npz") as samples:
        images, labels = samples["arr_0"], samples["arr_1"]
    paths = sorted((out / "png").iterdir())
    assert len(paths) == COUNT
    for i, path in enumerate(paths):
        assert path.name == f"{i:06d}_{'abc'[labels[i]]}.png"
        with Image.open(path) as png:
            np.testing.assert_array_equal(np.asarray(png), images[i, ..., 0])


def test_draw_writes_gray_files_of_samples_that_are_rgb(model, tmp_path):
    drawing = _drawing(model, tmp_path / "out")
    drawing = dataclasses.replace(drawing, settings={**drawing.settings, "rgb": True})
    with np.load(_draw(drawing)) as samples:
        assert samples["arr_0"].shape == (COUNT, 4, 4, 3)
        first = samples["arr_0"][0]
    _draw(dataclasses.replace(drawing, png=True))
    with Image.open(tmp_path / "out" / "png" / "000000_a.png") as png:
        assert png.mode == "L"
        np.testing.assert_array_equal(np.asarray(png), first[..., 0])


def test_draw_continues_with_another_batch_size_to_the_same_file(model, whole, tmp_path, capsys):
    out = tmp_path / "out"
    drawing = _drawing(model, out, batch_size=16)
    with np.load(whole / "samples.npz") as samples:
        images, labels = samples["arr_0"][:8], samples["arr_1"][:8].astype(np.int32)
    # As if it had been killed after its first batch of 8.
    with lock_and_record(out, drawing.settings):
        ShardedSamples(out, COUNT, (4, 4, 1), num_classes=3).write(0, images, labels)
    _draw(drawing)
    assert "continuing after 8 finished samples" in capsys.readouterr().out
    for name in ("samples.npz", "grid.png"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_draw_refuses_a_file_that_is_not_what_was_written(model, whole, tmp_path):
    out = shutil.copytree(whole, tmp_path / "out")
    data = bytearray((out / "samples.npz").read_bytes())
    data[200] ^= 1
    (out / "samples.npz").write_bytes(data)
    with pytest.raises(UsageError, match=r"samples.npz is damaged: .*delete it, and it is drawn"):
        _draw(_drawing(model, out))
    (out / "samples.npz").unlink()
    _draw(_drawing(model, out))
    assert (out / "samples.npz").read_bytes() == (whole / "samples.npz").read_bytes()


def test_draw_says_that_the_disk_is_full(model, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    drawing = _drawing(model, tmp_path / "out", png=True)
    with pytest.raises(UsageError, match=r"cannot be written: No space left on device$"):
        _draw(drawing)
    monkeypatch.undo()
    _draw(drawing)


@pytest.mark.usefixtures("unchecked")
def test_drawing_says_what_helps_when_memory_runs_out(monkeypatch):
    def none_is_left(*args, **options):
        raise MemoryError("Unable to allocate 9.00 GiB")

    monkeypatch.setattr(write_samples, "draw_batches", none_is_left)
    monkeypatch.setattr(write_samples.distributed, "on_first", lambda call: 0)
    asked = types.SimpleNamespace(
        settings={"num_samples": 4, "seed": 0, "guidance": 1.0},
        generator=types.SimpleNamespace(parts=lambda: [0], batch_size_for=lambda total: 2),
        inputs=None,
    )
    with pytest.raises(UsageError, match=r"9\.00 GiB.*smaller --batch_size needs less"):
        write_samples._draw_missing(asked, types.SimpleNamespace(done=None), None)
