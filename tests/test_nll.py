"""The nll and dp_respacing commands in processes of their own."""

import json
import pathlib
import shutil

import numpy as np
import pytest

import iddpm_jax
from iddpm_jax.data.image_batches import image_batches
from iddpm_jax.errors import UsageError
from iddpm_jax.evaluation.bound import make_bound, summarise
from iddpm_jax.evaluation.bound_files import read_result
from tests import tiny
from tests.commands import run, train

FILES = ("vb_terms.npz", "mse_terms.npz", "xstart_mse_terms.npz", "vb_terms.png", "nll.json")


def _nll(workdir: pathlib.Path, out: pathlib.Path, *flags: str):
    return run(["-m", "iddpm_jax.nll", f"--workdir={workdir}", f"--out={out}", *flags])


@pytest.fixture(scope="module")
def evaluated(uninterrupted, tmp_path_factory):
    """All 297 held-out digits, in batches that do not divide them."""
    out = tmp_path_factory.mktemp("nll") / "out"
    result = _nll(uninterrupted, out, "--batch_size=100")
    assert result.returncode == 0, result.stderr
    assert "297 images of 'test', 10 steps, EMA 0.995, step 6" in result.stdout
    return out


def test_nll_writes_the_bound_of_every_image(uninterrupted, evaluated):
    model = iddpm_jax.load(str(uninterrupted))
    source = model.open_source("test")
    bound = make_bound(model.build_diffusion(""), model.model, model.params, tiny.mesh(1), seed=0)
    expected = summarise(map(bound, image_batches(source.batch, np.arange(297), 99)))
    found = json.loads((evaluated / "nll.json").read_text())
    for key in ("bits_per_dim", "standard_error", "prior_bpd", "kl_bpd", "decoder_bpd"):
        assert found[key] == pytest.approx(getattr(expected, key), rel=1e-5), key
    for name, values in expected.terms.items():
        with np.load(evaluated / f"{name}_terms.npz") as arrays:
            assert arrays.files == ["arr_0"]  # As the reference saves them.
            np.testing.assert_allclose(arrays["arr_0"], values, rtol=1e-4)
    assert not (evaluated / "shards").exists()
    assert (evaluated / "vb_terms.png").read_bytes()[:4] == b"\x89PNG"


def test_nll_continues_to_the_files_of_an_uninterrupted_run(uninterrupted, evaluated, tmp_path):
    cut = shutil.copytree(evaluated, tmp_path / "cut")
    for name in FILES:
        (cut / name).unlink()
    # As if it had been killed while it wrote the second of three batches.
    model = iddpm_jax.load(str(uninterrupted))
    source = model.open_source("test")
    bound = make_bound(model.build_diffusion(""), model.model, model.params, tiny.mesh(1), seed=0)
    first = bound(next(image_batches(source.batch, np.arange(297), 100)))
    (cut / "shards").mkdir()
    np.savez(cut / "shards" / "000000000.npz", **first, items=100)
    (cut / "shards" / ".000000100.npz.0123456789abcdef.tmp").write_bytes(b"PK")
    result = _nll(uninterrupted, cut, "--batch_size=99")  # Which changes nothing but speed.
    assert result.returncode == 0, result.stderr
    assert "continuing after 100 finished images" in result.stdout
    found, expected = (json.loads((d / "nll.json").read_text()) for d in (cut, evaluated))
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        same = pytest.approx(value, rel=1e-6) if isinstance(value, float) else value
        assert found[key] == same, key


def test_nll_reads_its_result_before_it_is_reported_again(evaluated, tmp_path):
    settings = json.loads((evaluated / "settings.json").read_text())
    assert read_result(evaluated, settings)["num_images"] == 297
    assert read_result(tmp_path, settings) is None
    result = json.loads((evaluated / "nll.json").read_text())
    for damaged in ("{", "[]", json.dumps({**result, "seed": 1}), json.dumps(settings)):
        (tmp_path / "nll.json").write_text(damaged)
        with pytest.raises(UsageError, match="delete it, and the images are evaluated again"):
            read_result(tmp_path, settings)


def test_nll_refuses_what_it_cannot_do(uninterrupted, evaluated, tmp_path):
    wrong = {
        "seed: there 0, now 1": (evaluated, "--seed=1"),
        "num_samples=298, but there are 297": (tmp_path / "a", "--num_samples=298"),
        "data.split='nowhere': digits have train, test, all": (tmp_path / "b", "--split=nowhere"),
        "python -m iddpm_jax.dp_respacing --workdir=": (tmp_path / "c", "--respacing=dp5"),
    }
    for message, (out, flag) in wrong.items():
        result = _nll(uninterrupted, out, flag)
        assert result.returncode == 1, message
        assert message in result.stderr
        assert "Traceback" not in result.stderr


def test_dp_respacing_is_searched_once_and_works_in_every_command(uninterrupted, tmp_path):
    workdir = shutil.copytree(uninterrupted, tmp_path / "run")
    search = ["-m", "iddpm_jax.dp_respacing", f"--workdir={workdir}", "--num_samples=40"]
    result = run([*search, "--batch_size=32"])
    assert result.returncode == 0, result.stderr
    assert "dp5: " in result.stdout
    assert sorted(p.name for p in workdir.iterdir() if p.name.startswith("dp")) == [
        "dp_respacing.npz"
    ]
    with np.load(workdir / "dp_respacing.npz") as arrays:
        bounds, timesteps = arrays["bounds"], arrays["timesteps"]
    assert timesteps[10].tolist() == list(range(10))
    result = _nll(workdir, tmp_path / "all", "--num_samples=40")
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "all" / "nll.json").read_text())
    assert found["bits_per_dim"] == pytest.approx(bounds[10], rel=1e-4)
    model = iddpm_jax.load(str(workdir))
    kept = np.asarray(model.build_diffusion("dp5").model_timesteps)
    np.testing.assert_allclose(kept, timesteps[5, :5] * 100)
    # Results of another search are told apart.
    before = model.respacing_name("dp5")
    assert before.startswith("dp5-")
    with np.load(workdir / "dp_respacing.npz") as arrays:
        table = dict(arrays)
    table["timesteps"][5, :5] = [0, 1, 2, 3, 9]
    np.savez(workdir / "dp_respacing.npz", **table)
    assert model.respacing_name("dp5") != before
    assert model.respacing_name("ddim5") == "ddim5"
    assert model.sample(2, respacing="dp3").shape == (2, 8, 8, 1)
    with pytest.raises(ValueError, match="has from dp2 to dp10"):
        model.build_diffusion("dp11")


def test_nll_of_a_fixed_variance_says_what_the_decoder_uses(tmp_path):
    flags = ("--config.train.num_steps=2", "--config.diffusion.learn_sigma=False")
    result = train(tmp_path / "run", *flags, "--config.diffusion.sigma_small=True")
    assert result.returncode == 0, result.stderr
    result = _nll(tmp_path / "run", tmp_path / "out", "--num_samples=3")
    assert result.returncode == 0, result.stderr
    assert "fixed at β̃_t; at t = 0, where β̃ is 0, the decoder's is that of the second step" in (
        result.stdout
    )
