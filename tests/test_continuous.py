"""A process in continuous time, trained and sampled by the real commands."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import iddpm_jax
from iddpm_jax.config.build_training import build_training
from iddpm_jax.recipes import digits_continuous
from tests.commands import TINY, run


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("continuous") / "run"
    flags = [flag for flag in TINY if "steps=10" not in flag and "respacing" not in flag]
    command = ["main.py", "--config=configs/digits_continuous.py", f"--workdir={workdir}", *flags]
    for steps in (2, 4):
        result = run([*command, f"--config.train.num_steps={steps}"])
        assert result.returncode == 0, result.stderr
    assert "continuing after step 2" in result.stdout
    return workdir


def test_training_writes_down_what_it_measured_and_logs_by_quartile_of_time(workdir):
    config = json.loads((workdir / "config.json").read_text())
    assert config["data"]["mean"] == [pytest.approx(-0.39, abs=0.02)]
    assert config["data"]["std"] == [pytest.approx(0.75, abs=0.02)]
    row = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    assert row["loss"] == row["l1"]
    assert len([key for key in row if key.startswith("l1_q")]) == 4


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--sampler=ddim", "--eta=1", "--respacing=7"],
        ["--sampler=dpm-solver++"],
    ],
)
def test_samples_are_drawn_in_any_number_of_steps(workdir, tmp_path, flags):
    command = ["-m", "iddpm_jax.sample", f"--workdir={workdir}", f"--out={tmp_path}/out"]
    result = run([*command, "--num_samples=9", *flags, "--show_steps=3", "--forward_strip"])
    assert result.returncode == 0, result.stderr
    with np.load(tmp_path / "out" / "samples.npz") as samples:
        assert samples["arr_0"].shape == (9, 8, 8, 1)
        # Standardised noise, brought back: neither black nor white all over.
        assert 20 < samples["arr_0"].std() < 128


def test_two_noises_are_interpolated(workdir, tmp_path):
    command = ["-m", "iddpm_jax.sample", f"--workdir={workdir}", f"--out={tmp_path}/out"]
    assert run([*command, "--interpolate=0,1"]).returncode == 0
    assert (tmp_path / "out" / "interpolation.png").exists()


@pytest.mark.parametrize("command", ["nll", "dp_respacing"])
def test_commands_that_need_a_likelihood_say_that_there_is_none(workdir, command):
    result = run(["-m", f"iddpm_jax.{command}", f"--workdir={workdir}"])
    assert result.returncode == 1
    assert f"{command} needs a likelihood, which a process in continuous time" in result.stderr


def test_respacing_of_continuous_time_is_a_number_of_steps(workdir):
    model = iddpm_jax.load(str(workdir))
    assert model.build_diffusion("").num_timesteps == 20
    assert model.build_diffusion("33").num_timesteps == 33
    with pytest.raises(ValueError, match="'ddim10': of a process in continuous time give"):
        model.build_diffusion("ddim10")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"diffusion.process": "flow"}, "'flow': choose discrete or continuous"),
        ({"diffusion.loss": "huber"}, "unknown loss 'huber'"),
        ({"diffusion.noise_schedule": "sigmoid"}, "unknown schedule 'sigmoid'"),
        ({"diffusion.learn_sigma": True}, "learn_sigma=True is for a discrete process"),
        ({"diffusion.steps": 1}, "at least 2 steps"),
        ({"train.schedule_sampler": "loss-second-moment"}, "only 'uniform'"),
        ({"data.mean": (0.0, 0.0)}, "must have a number for each of 1 channels"),
        ({"data.mean": (0.0,), "data.std": (0.0,)}, "deviations above 0"),
        ({"data.mean": (float("nan"),), "data.std": (1.0,)}, "must have a number"),
        ({"data.standardize": False, "data.mean": (0.1,)}, "no effect without data.standardize"),
        ({"diffusion.process": "discrete", "diffusion.noise_schedule": "cosine"}, "loss='l1' is"),
    ],
)
def test_bad_values_are_refused(changes, message):
    config = digits_continuous.get_config()
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=message):
        build_training(config)


def test_the_networks_input_has_variance_1_at_all_times():
    training = build_training(digits_continuous.get_config())
    images = next(training.data.batches)["image"]
    x = np.asarray(training.step.standardize(images))
    assert x.std() == pytest.approx(1, abs=0.05)
    t, weights = training.objective.timestep_sampler.sample((), jax.random.key(0), 1000)
    assert 0 <= t.min() < 0.01 < 0.99 < t.max() < 1
    assert (weights == 1).all()


def test_a_run_is_verified_and_exported_like_any_other(workdir, tmp_path):
    result = run(["-m", "iddpm_jax.check_workdir", f"--workdir={workdir}"])
    assert result.returncode == 0, result.stdout + result.stderr
    result = run(["-m", "iddpm_jax.export_torch", f"--workdir={workdir}", f"--out={tmp_path}/pt"])
    assert result.returncode == 0, result.stderr


def test_likelihood_of_standardised_images_is_refused(workdir):
    model = iddpm_jax.load(str(workdir))
    discrete = dataclasses.replace(model, betas=np.full(10, 0.1))
    with pytest.raises(ValueError, match="nll needs a likelihood, which is that of 8-bit images"):
        discrete.refuse_without_likelihood("nll")
