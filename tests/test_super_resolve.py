"""Super-resolution: trained, sampled and evaluated by the real commands."""

import dataclasses
import io
import json
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

import iddpm_jax
from iddpm_jax.data import digits_source
from iddpm_jax.errors import UsageError
from iddpm_jax.sampling.base_samples import read_npz
from tests.commands import TINY, run

SMALL = digits_source("test", 4).images
SHAPE = (4, 4, 1)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Six steps of a super-resolution model with augmented conditioning, in two parts."""
    workdir = tmp_path_factory.mktemp("super") / "run"
    for steps in (3, 6):
        flags = [*TINY, "--config.train.low_res_noise=0.2", f"--config.train.num_steps={steps}"]
        command = ["main.py", "--config=configs/digits_upsample.py", f"--workdir={workdir}"]
        result = run([*command, *flags])
        assert result.returncode == 0, result.stderr
    assert "continuing after step 3" in result.stdout
    return workdir


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """A file as the sample command writes it."""
    path = tmp_path_factory.mktemp("base") / "samples.npz"
    np.savez(path, SMALL[:10], np.arange(10) % 10)
    return path


def _resolve(workdir, *flags):
    return run(["-m", "iddpm_jax.super_resolve", f"--workdir={workdir}", *flags])


def test_training_draws_grids_of_what_is_made_of_real_images(workdir):
    with Image.open(workdir / "samples" / "step_00000006_ema_0.995.png") as grid:
        # Twenty images, two groups of four cells in a row.
        assert grid.size == (8 * 34 + 2, 10 * 34 + 2)


def test_super_resolve_enlarges_samples_with_their_labels(workdir, samples, tmp_path):
    flags = [f"--base_samples={samples}", "--batch_size=4", "--respacing=exact5"]
    result = _resolve(workdir, *flags, f"--out={tmp_path / 'out'}", "--png")
    assert result.returncode == 0, result.stderr
    with np.load(tmp_path / "out" / "samples.npz") as written:
        images, labels = written["arr_0"], written["arr_1"]
    assert (images.shape, images.dtype) == ((10, 8, 8, 1), np.uint8)
    np.testing.assert_array_equal(labels, np.arange(10))
    assert len(list((tmp_path / "out" / "png").iterdir())) == 10
    with Image.open(tmp_path / "out" / "grid.png") as grid:
        assert grid.size[0] % (3 * 34) == 2
    model = iddpm_jax.load(str(workdir))
    again = model.super_resolve(SMALL[:10], labels=range(10), respacing="exact5", batch_size=8)
    np.testing.assert_array_equal(images, again)
    # What is drawn depends on what is given.
    other = model.super_resolve(SMALL[10:20], labels=range(10), respacing="exact5")
    assert not np.array_equal(other, again)


def test_super_resolve_continues_to_the_file_of_an_uninterrupted_run(workdir, samples, tmp_path):
    flags = [f"--base_samples={samples}", "--batch_size=4", "--respacing=ddim5", "--sampler=ddim"]
    for name in ("whole", "cut"):
        assert _resolve(workdir, *flags, f"--out={tmp_path / name}").returncode == 0
    cut = tmp_path / "cut"
    with np.load(cut / "samples.npz") as written:
        images, labels = written["arr_0"], written["arr_1"].astype(np.int32)
    (cut / "samples.npz").unlink()
    (cut / "shards").mkdir()
    np.savez(cut / "shards" / "000000000.npz", images=images[:4], labels=labels[:4], items=4)
    result = _resolve(workdir, *flags, f"--out={cut}")
    assert "continuing after 4 finished samples" in result.stdout
    assert (cut / "samples.npz").read_bytes() == (tmp_path / "whole" / "samples.npz").read_bytes()


def test_super_resolve_runs_a_cascade_and_takes_folders(workdir, tmp_path):
    base = tmp_path / "base"
    command = ["main.py", "--config=configs/digits_base4.py", f"--workdir={base}"]
    result = run([*command, *TINY, "--config.train.num_steps=2", "--config.train.sample_every=0"])
    assert result.returncode == 0, result.stderr
    flags = ["--num_samples=6", "--labels=3,7", "--respacing=exact3", "--base_respacing=exact3"]
    out = tmp_path / "cascade"
    for _ in range(2):  # The second time all is there.
        result = _resolve(workdir, f"--base_workdir={base}", *flags, f"--out={out}")
        assert result.returncode == 0, result.stderr
    with np.load(out / "base" / "samples.npz") as small, np.load(out / "samples.npz") as large:
        assert small["arr_0"].shape == (6, 4, 4, 1)
        assert large["arr_0"].shape == (6, 8, 8, 1)
        assert small["arr_1"].tolist() == large["arr_1"].tolist() == [3, 7] * 3
    folder = tmp_path / "folder"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(SMALL[i, ..., 0]).save(folder / f"{i}.png")
    flags = [f"--images={folder}", "--labels=5", "--respacing=exact3"]
    result = _resolve(workdir, *flags, f"--out={tmp_path / 'images'}")
    assert result.returncode == 0, result.stderr
    with np.load(tmp_path / "images" / "samples.npz") as written:
        expected = iddpm_jax.load(str(workdir)).super_resolve(
            SMALL[:3], labels=[5], respacing="exact3"
        )
        np.testing.assert_array_equal(written["arr_0"], expected)


def test_nll_is_of_images_given_their_smaller_versions(workdir, tmp_path):
    command = ["-m", "iddpm_jax.nll", f"--workdir={workdir}", "--num_samples=10"]
    for size in (4, 10):
        result = run([*command, f"--batch_size={size}", f"--out={tmp_path / str(size)}"])
        assert result.returncode == 0, result.stderr
    four, ten = (json.loads((tmp_path / n / "nll.json").read_text()) for n in ("4", "10"))
    assert four["bits_per_dim"] == pytest.approx(ten["bits_per_dim"], rel=1e-5)


def test_unconditional_models_enlarge_too(tmp_path, samples):
    command = ["main.py", "--config=configs/digits_upsample.py", f"--workdir={tmp_path / 'run'}"]
    flags = ["--config.model.num_classes=0", "--config.train.num_steps=2"]
    result = run([*command, *TINY, *flags])
    assert result.returncode == 0, result.stderr
    flags = [f"--base_samples={samples}", "--num_samples=4", "--respacing=exact3"]
    result = _resolve(tmp_path / "run", *flags, f"--out={tmp_path / 'out'}")
    assert result.returncode == 0, result.stderr
    with np.load(tmp_path / "out" / "samples.npz") as written:
        assert written["arr_0"].shape == (4, 8, 8, 1)
        assert "arr_1" not in written.files
    result = _resolve(tmp_path / "run", *flags, "--labels=1")
    assert "labels=[1], but the model is unconditional" in result.stderr


def test_exported_and_imported_model_draws_the_same(workdir, tmp_path):
    result = run(["-m", "iddpm_jax.export_torch", f"--workdir={workdir}", f"--out={tmp_path}/pt"])
    assert result.returncode == 0, result.stderr
    [weights] = (tmp_path / "pt").glob("ema_0.995_*.pt")
    flags = ["--config=configs/digits_upsample.py", f"--workdir={tmp_path / 'back'}"]
    flags += [flag for flag in TINY if flag.startswith(("--config.model", "--config.diffusion"))]
    result = run(
        [
            "-m",
            "iddpm_jax.import_torch",
            f"--checkpoint={weights}",
            "--attention_order=legacy",
            *flags,
        ]
    )
    assert result.returncode == 0, result.stderr
    assert "python -m iddpm_jax.super_resolve" in result.stdout
    ways = {"labels": range(4), "respacing": "exact3"}
    before, after = (iddpm_jax.load(str(directory)) for directory in (workdir, tmp_path / "back"))
    # The configuration that it was imported with has no noise on the small images.
    before = dataclasses.replace(before, low_res=after.low_res)
    np.testing.assert_array_equal(
        before.super_resolve(SMALL[:4], **ways), after.super_resolve(SMALL[:4], **ways)
    )


def test_searched_timesteps_work_too(workdir, samples, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(workdir, copy)
    result = run(["-m", "iddpm_jax.dp_respacing", f"--workdir={copy}", "--num_samples=8"])
    assert result.returncode == 0, result.stderr
    result = _resolve(copy, f"--base_samples={samples}", "--respacing=dp4")
    assert result.returncode == 0, result.stderr


def test_sample_says_which_command_to_use(workdir):
    result = run(["-m", "iddpm_jax.sample", f"--workdir={workdir}"])
    assert result.returncode == 1
    assert "python -m iddpm_jax.super_resolve" in result.stderr
    with pytest.raises(ValueError, match=r"small_size=4.*super_resolve"):
        iddpm_jax.load(str(workdir)).sample(1)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "give one of --base_samples, --images, --base_workdir, not none"),
        (["--images=x", "--base_samples=y"], "not base_samples and images"),
        (["--base_samples=SAMPLES", "--num_samples=11"], "has 10 samples, fewer than the 11"),
        (["--base_samples=SAMPLES", "--labels=10"], "outside the model's 10 classes"),
        (["--base_samples=nothing.npz"], "nothing.npz cannot be read as an npz"),
        (["--images=nothing"], "nothing"),
        (["--base_workdir=nothing"], "nothing is not a work directory"),
        (["--base_samples=SAMPLES", "--low_res_noise=2"], "low_res_noise"),
    ],
)
def test_super_resolve_refuses_bad_flags_in_one_line(workdir, samples, tmp_path, flags, message):
    flags = [flag.replace("SAMPLES", str(samples)) for flag in flags]
    result = _resolve(workdir, *flags, f"--out={tmp_path / 'out'}")
    assert result.returncode == (2 if "See --help" in result.stderr else 1)
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_super_resolve_needs_labels_for_a_conditional_model(workdir, tmp_path):
    np.savez(tmp_path / "samples.npz", SMALL[:2])
    result = _resolve(workdir, f"--base_samples={tmp_path / 'samples.npz'}")
    assert result.returncode == 1
    assert "the model is class-conditional and" in result.stderr
    assert "give --labels" in result.stderr


def _npz(tmp_path, *arrays, **named):
    path = tmp_path / "samples.npz"
    np.savez(path, *arrays, **named)
    return str(path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ((np.zeros((3, 8, 8, 1), np.uint8),), r"\(8, 8, 1\), but the model takes uint8 of \(4, 4"),
        ((np.zeros((3, 4, 4, 3), np.uint8),), r"\(4, 4, 3\), but"),
        ((np.zeros((3, 4, 4, 1), np.float32),), "samples of float32"),
        ((np.zeros((0, 4, 4, 1), np.uint8),), "has 0 samples"),
        ((np.zeros((3, 4, 4, 1), np.uint8), np.zeros(2, int)), r"labels of int64 \(2,\) for 3"),
        ((np.zeros((3, 4, 4, 1), np.uint8), np.zeros(3)), "labels of float64"),
        ((np.zeros((3, 4, 4, 1), np.uint8), np.full(3, -1)), "negative"),
        ((np.array([{}], dtype=object),), "no plain array, but object"),
    ],
)
def test_read_npz_refuses_what_does_not_fit(tmp_path, arrays, message):
    with pytest.raises(ValueError, match=message):
        read_npz(_npz(tmp_path, *arrays), 0, SHAPE)


def test_read_npz_refuses_more_or_less_than_a_header_says_and_pickles(tmp_path):
    """An archive that unpacks to a gigabyte of zeros, of which 48 bytes are samples."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (3, *SHAPE)}
    )
    path = tmp_path / "bomb.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("arr_0.npy", "w", force_zip64=True) as member,
    ):
        member.write(header.getvalue())
        for _ in range(64):
            member.write(bytes(2**24))
    with pytest.raises(UsageError, match="arr_0 is too large: 48 bytes by its header"):
        read_npz(str(path), 0, SHAPE)
    cut = tmp_path / "cut.npz"
    with zipfile.ZipFile(cut, "w") as archive:
        archive.writestr("arr_0.npy", header.getvalue() + bytes(20))
    with pytest.raises(ValueError, match="arr_0 is too small: 48 bytes by its header, 20"):
        read_npz(str(cut), 0, SHAPE)
    with zipfile.ZipFile(cut, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("arr_0.npy", header.getvalue() + bytes(range(48)))
    data = bytearray(cut.read_bytes())
    data[60:80] = bytes(20)  # In the compressed stream.
    cut.write_bytes(data)
    with pytest.raises(ValueError, match="cannot be read"):
        read_npz(str(cut), 0, SHAPE)
    with zipfile.ZipFile(cut, "w") as archive:
        archive.writestr("arr_0.npy", b"cos\nsystem\n")
    with pytest.raises(ValueError, match="the magic string is not correct"):
        read_npz(str(cut), 0, SHAPE)
