"""The examples are read first, so they have to run, and to be short."""

import pathlib

import jax
import numpy as np
import pytest
from PIL import Image

from examples import sample, train_from_scratch
from iddpm_jax import diffusion as dm

FOLDER = pathlib.Path(train_from_scratch.__file__).parent


def test_train_from_scratch_learns_and_writes_samples(tmp_path, capsys):
    with jax.numpy_dtype_promotion("standard"):  # As anywhere but in these tests; Optax needs it.
        train_from_scratch.main(["--steps=30", f"--out={tmp_path / 'samples.png'}"])
    first, last = (float(line.split()[-1]) for line in capsys.readouterr().out.splitlines())
    assert last < first
    with Image.open(tmp_path / "samples.png") as image:
        assert image.size == (16 * 8 * 8, 8 * 8)


def test_train_from_scratch_has_a_schedule_that_falls_as_it_says():
    diffusion = dm.make_diffusion(
        train_from_scratch.schedule(100),
        mean_type="epsilon",
        var_type="fixed_small",
        loss_type="mse",
    )
    np.testing.assert_allclose(diffusion.alphas_cumprod[49], 0.25, rtol=1e-5)


def test_sample_draws_and_predicts(uninterrupted, tmp_path):
    out = tmp_path / "predictions.png"
    sample.main([f"--workdir={uninterrupted}", "--respacing=exact3", f"--out={out}"])
    with Image.open(out) as image:
        assert image.size == (10 * 8 * 6, 3 * 8 * 6)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_examples_are_under_80_lines(path):
    assert len(path.read_text().splitlines()) < 80
