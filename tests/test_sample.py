"""The sample command in processes of its own, and `iddpm_jax.load`."""

import dataclasses
import pathlib
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

import iddpm_jax
from iddpm_jax.models import winograd
from tests import tiny
from tests.commands import run


def _sample(workdir: pathlib.Path, out: pathlib.Path, *flags: str):
    return run(["-m", "iddpm_jax.sample", f"--workdir={workdir}", f"--out={out}", *flags])


@pytest.fixture(scope="module")
def model(uninterrupted):
    return iddpm_jax.load(str(uninterrupted))


def test_sample_writes_npz_grid_and_pngs(uninterrupted, model, tmp_path):
    out = tmp_path / "out"
    result = _sample(uninterrupted, out, "--num_samples=25", "--batch_size=10", "--png")
    assert result.returncode == 0, result.stderr
    with np.load(out / "samples.npz") as samples:
        images, labels = samples["arr_0"], samples["arr_1"]
    assert (images.shape, images.dtype) == ((25, 8, 8, 1), np.uint8)
    assert labels.tolist() == [i % 10 for i in range(25)]
    np.testing.assert_array_equal(images, model.sample(25, batch_size=8))
    pngs = sorted((out / "png").iterdir())
    assert [path.name for path in pngs[:2]] == ["000000_0.png", "000001_1.png"]
    with Image.open(pngs[12]) as png:
        np.testing.assert_array_equal(np.asarray(png), images[12, ..., 0])
    with Image.open(out / "grid.png") as grid:
        assert grid.size[1] == 10 * 34 + 2
    again = _sample(uninterrupted, out, "--num_samples=25", "--batch_size=10", "--png")
    assert again.returncode == 0, again.stderr


def test_sample_continues_to_the_file_of_an_uninterrupted_run(uninterrupted, tmp_path):
    flags = ("--num_samples=20", "--batch_size=4", "--sampler=ddim", "--respacing=exact3")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert _sample(uninterrupted, whole, *flags).returncode == 0
    assert _sample(uninterrupted, cut, *flags).returncode == 0
    # As if it had been killed while it wrote the third of five batches.
    with np.load(cut / "samples.npz") as samples:
        images, labels = samples["arr_0"], samples["arr_1"].astype(np.int32)
    (cut / "samples.npz").unlink()
    (cut / "grid.png").unlink()
    (cut / "shards").mkdir()
    for number in range(2):
        part = slice(4 * number, 4 * number + 4)
        arrays = {"images": images[part], "labels": labels[part], "items": 4}
        np.savez(cut / "shards" / f"{4 * number:09d}.npz", **arrays)
    (cut / "shards" / ".000000008.npz.0123456789abcdef.tmp").write_bytes(b"PK")
    result = _sample(uninterrupted, cut, *flags)
    assert result.returncode == 0, result.stderr
    assert "continuing after 8 finished samples" in result.stdout
    for name in ("samples.npz", "grid.png"):
        assert (whole / name).read_bytes() == (cut / name).read_bytes()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--labels=3,10"], "labels [10] are outside the model's 10 classes, 0 to 9"),
        (["--labels=3,cat"], "--labels=cat: the model has no class of that name; it has 0, 1"),
        (["--labels=99", "--interpolate=0,1"], "labels [99] are outside the model's 10 classes"),
        (["--respacing=ddim7"], "'ddim7': no integer stride over 10"),
        (["--respacing=logsnr11"], "cannot keep 11 of 10"),
        (["--eta=0.5"], "eta=0.5 is an option of ddim"),
        (["--ema=0.5"], "ema='0.5'"),
        (["--sampler=plms"], "--sampler=plms: give one of"),
        (["--num_samples=0"], "--num_samples=0: give a whole number"),
    ],
)
def test_sample_refuses_bad_flags_in_one_line(uninterrupted, tmp_path, flags, message):
    result = _sample(uninterrupted, tmp_path / "out", *flags)
    assert result.returncode == (2 if "See --help" in result.stderr else 1)
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_sample_overwrites_no_other_run(uninterrupted, tmp_path):
    out = tmp_path / "out"
    flags = ("--num_samples=2", "--respacing=exact2", "--rgb")
    assert _sample(uninterrupted, out, *flags).returncode == 0
    before = (out / "samples.npz").read_bytes()
    with np.load(out / "samples.npz") as samples:
        assert samples["arr_0"].shape == (2, 8, 8, 3)
    result = _sample(uninterrupted, out, *flags, "--seed=1", "--noclip_denoised")
    assert result.returncode == 1
    assert "seed: there 0, now 1" in result.stderr
    assert "clip_denoised: there True, now False" in result.stderr
    assert (out / "samples.npz").read_bytes() == before


def test_load_guides_a_model_trained_for_it(model):
    plain = model.sample(4, sampler="ddim")
    np.testing.assert_array_equal(plain, model.sample(4, sampler="ddim", guidance=1.0))
    # Six steps of training have taught it hardly any difference.
    assert (plain != model.sample(4, sampler="ddim", guidance=1e6)).any()


def test_load_gives_a_plain_network_and_samples_with_the_fast_one(uninterrupted, monkeypatch):
    monkeypatch.setattr("iddpm_jax.config.build_trained_model.make_mesh", lambda: tiny.mesh(1))
    model = iddpm_jax.load(str(uninterrupted))
    assert model.model.conv_general_dilated is jax.lax.conv_general_dilated
    fast = winograd.conv_general_dilated
    assert model.fast_model == model.model.clone(conv_general_dilated=fast)
    assert model.generator("ddim", "", 0.0, 1.0).model is model.fast_model


def test_load_picks_the_average_that_is_asked_for(uninterrupted, model):
    assert (model.ema, model.step) == ("0.995", 6)
    raw = iddpm_jax.load(str(uninterrupted), ema="none")
    assert (raw.ema, raw.step) == ("none", 6)
    assert (raw.params["out_conv"]["kernel"] != model.params["out_conv"]["kernel"]).any()


def test_load_keeps_what_is_compiled_unless_told_otherwise(uninterrupted, monkeypatch):
    kept = []
    monkeypatch.setattr("iddpm_jax.cli.compilation_cache.enable", kept.append)
    iddpm_jax.load(str(uninterrupted), compilation_cache=False)
    assert kept == []
    iddpm_jax.load(str(uninterrupted))
    assert kept == [uninterrupted.parent]


def test_load_refuses_what_is_no_work_directory(tmp_path, uninterrupted):
    with pytest.raises(ValueError, match=r"no config\.json"):
        iddpm_jax.load(str(tmp_path))
    workdir = tmp_path / "copy"
    shutil.copytree(uninterrupted, workdir)
    shutil.rmtree(workdir / "checkpoints" / "6" / "ema")
    assert iddpm_jax.load(str(workdir)).step == 4  # The newest sound one.
    shutil.rmtree(workdir / "checkpoints")
    with pytest.raises(ValueError, match="no complete checkpoint"):
        iddpm_jax.load(str(workdir))


def test_load_refuses_guidance_and_labels_that_the_model_lacks(model):
    with pytest.raises(ValueError, match=r"labels \[10\]"):
        model.sample(1, labels=[10])
    with pytest.raises(ValueError, match=r"guidance=2.0 needs .*label_dropout > 0"):
        dataclasses.replace(model, null_label=None).sample(1, guidance=2.0)
    unconditional = dataclasses.replace(model, num_classes=0)
    with pytest.raises(ValueError, match=r"labels=\[1\], but the model is unconditional"):
        unconditional.sample(1, labels=[1])


def test_sample_draws_what_happens_between_noise_and_image(uninterrupted, tmp_path):
    out = tmp_path / "out"
    flags = ("--num_samples=10", "--sampler=ddim", "--respacing=exact4", "--show_steps=4")
    result = _sample(uninterrupted, out, *flags, "--gif", "--forward_strip")
    assert result.returncode == 0, result.stderr
    sizes = {}
    for name in ("steps.png", "forward.png", "steps.gif"):
        with Image.open(out / name) as picture:
            sizes[name] = picture.size[1], getattr(picture, "n_frames", 1)
    # Two rows for each of six samples; one for each of six digits; ten rows, four moments.
    assert sizes == {
        "steps.png": (12 * 34 + 2, 1),
        "forward.png": (6 * 34 + 2, 1),
        "steps.gif": (10 * 34 + 2, 4),
    }


def test_sample_inverts_and_interpolates(uninterrupted, tmp_path):
    for i, value in enumerate((0, 200)):
        Image.fromarray(np.full((8, 8), value, np.uint8)).save(tmp_path / f"{i}.png")
    images = f"--invert={tmp_path / '0.png'},{tmp_path / '1.png'}"
    out = tmp_path / "inverted"
    result = _sample(uninterrupted, out, images, "--labels=3,7")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("root mean square error") == 2
    with np.load(out / "inversion.npz") as arrays:
        assert arrays["noise"].shape == arrays["reconstruction"].shape == (2, 8, 8, 1)
    assert (out / "inversion.png").exists()
    out = tmp_path / "between"
    result = _sample(uninterrupted, out, "--interpolate=0,1", "--labels=5", "--respacing=exact3")
    assert result.returncode == 0, result.stderr
    with Image.open(out / "interpolation.png") as picture:
        assert picture.size[1] == 34 + 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--invert={image}", "--labels=1,2"], "--labels has 2 labels for 1 images"),
        (["--invert={image}"], "needs the images' --labels"),
        (["--invert={image}", "--labels=1"], "is 9 x 8, the model needs 8 x 8"),
        (["--invert={text}", "--labels=1"], "cannot be read as an image"),
        (["--invert={image}", "--labels=1", "--sampler=ddpm"], "goes by ddim"),
        (["--interpolate=1"], "give two seeds"),
        (["--interpolate=0,1", "--sampler=ddpm"], "needs a deterministic sampler"),
        (["--show_steps=11"], "--show_steps=11 is more than 10 steps"),
    ],
)
def test_sample_refuses_pictures_that_cannot_be(uninterrupted, tmp_path, flags, message):
    paths = {"image": tmp_path / "image.png", "text": tmp_path / "text.png"}
    Image.fromarray(np.zeros((8, 9), np.uint8)).save(paths["image"])
    paths["text"].write_text("no image")
    result = _sample(uninterrupted, tmp_path / "out", *[f.format(**paths) for f in flags])
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out" / "samples.npz").exists()
