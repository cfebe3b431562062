"""A damaged work directory: what is found, and that training goes on from what is sound."""

import json
import shutil

import pytest

import iddpm_jax
from iddpm_jax.config.verify_workdir import findings
from iddpm_jax.errors import UsageError
from iddpm_jax.training.checkpoints import Checkpoints
from tests.commands import run, train


def test_check_workdir_names_damage_and_training_goes_on_from_what_is_sound(
    uninterrupted, tmp_path
):
    workdir = shutil.copytree(uninterrupted, tmp_path / "run")
    check = ["-m", "iddpm_jax.check_workdir", f"--workdir={workdir}"]
    result = run(check)
    assert result.returncode == 0, result.stderr + result.stdout
    assert result.stdout.splitlines() == [
        *("config.json: sound", "labels.json: sound", "metrics.jsonl: sound"),
        *(f"checkpoint {step}: sound" for step in (2, 4, 6)),
    ]
    for file in (workdir / "checkpoints" / "6" / "opt").rglob("*"):
        if file.is_file() and file.stat().st_size > 1000:
            file.write_bytes(file.read_bytes()[:-100])
    result = run(check)
    assert result.returncode == 1
    assert "checkpoint 4: sound" in result.stdout
    assert "checkpoint 6: the checkpoint" in result.stdout
    assert "1 damaged" in result.stderr

    flags = ("--config.train.label_dropout=0.1", "--config.train.num_steps=6")
    result = train(workdir, *flags)
    assert result.returncode == 0, result.stderr
    assert "checkpoints/6 cannot be read" in result.stderr
    assert "continuing after step 4" in result.stdout
    # What was done again is what was there before.
    for name in ("metrics.jsonl", "samples/step_00000006_ema_0.995.png"):
        assert (workdir / name).read_bytes() == (uninterrupted / name).read_bytes()
    result = run(check)
    assert result.returncode == 0, result.stdout


def test_check_workdir_reads_the_log_and_the_configuration(uninterrupted, tmp_path):
    workdir = shutil.copytree(uninterrupted, tmp_path / "run")
    check = ["-m", "iddpm_jax.check_workdir", f"--workdir={workdir}"]
    log = workdir / "metrics.jsonl"
    log.write_bytes(log.read_bytes() + b'{"step": 4}\n')
    result = run(check)
    assert result.returncode == 1
    assert "metrics.jsonl: line 4 is of step 4, the one before of step 6" in result.stdout
    (workdir / "config.json").write_text("{")
    result = run(check)
    assert result.returncode == 1
    assert "config.json: " in result.stdout
    assert "Traceback" not in result.stderr


def test_findings_pass_over_a_checkpoint_that_training_removes_meanwhile(
    uninterrupted, tmp_path, monkeypatch
):
    workdir = shutil.copytree(uninterrupted, tmp_path / "run")
    directory = workdir / "checkpoints"
    restore = Checkpoints.restore

    def removed(checkpoints, step, abstract):
        if step == 2:
            shutil.rmtree(directory / "2")
            shutil.rmtree(directory / "4")
        return restore(checkpoints, step, abstract)

    monkeypatch.setattr(Checkpoints, "restore", removed)
    found = dict(findings(workdir))
    assert {what: found[what] for what in found if "checkpoint" in what} == {"checkpoint 6": ""}


def test_findings_say_what_does_not_belong_to_the_run(uninterrupted, tmp_path):
    workdir = shutil.copytree(uninterrupted, tmp_path / "run")
    (workdir / "checkpoints" / "6").rename(workdir / "checkpoints" / "8")
    (workdir / "labels.json").unlink()
    (workdir / "metrics.jsonl").unlink()
    (workdir / "metrics.jsonl").mkdir()
    found = dict(findings(workdir))
    assert "not a regular file" in found["metrics.jsonl"]
    assert "is that of step 6, renamed" in found["checkpoint 8"]
    assert "names of 10 classes, labels.json is missing" in found["checkpoint 4"]
    with pytest.raises(UsageError, match=r"labels.json is missing; restore labels.json|renamed"):
        iddpm_jax.load(str(workdir))
    (workdir / "checkpoints" / "8").rename(workdir / "checkpoints" / "6")
    (workdir / "labels.json").write_bytes((uninterrupted / "labels.json").read_bytes())
    config = json.loads((workdir / "config.json").read_text())
    config["diffusion"]["steps"] = 20
    (workdir / "config.json").write_text(json.dumps(config))
    assert (
        "diffusion.steps: it has 10, config.json has 20" in dict(findings(workdir))["checkpoint 6"]
    )
    with pytest.raises(UsageError, match=r"diffusion.steps: it has 10, config.json has 20"):
        iddpm_jax.load(str(workdir))


@pytest.mark.parametrize(
    "write",
    [
        b"[" * 100_000,
        b'{"train": 3}',
        b'{"train": {"lr": "x"}}',
        b'{"model": {"channel_mult": 5}}',
        b'{"model": {"num_channels": 1000000000000000000000}}',
        b'{"model": {"num_res_blocks": 1000000}}',
        b'{"model": {"channel_mult": [' + b"1," * 100_000 + b"1]}}",
        b'{"diffusion": {"steps": 1000000000}}',
        b'{"diffusion": {"noise_schedule": "' + b"x" * 100_000 + b'"}}',
    ],
)
def test_load_refuses_a_config_that_makes_no_sense_in_one_line(tmp_path, write):
    (tmp_path / "config.json").write_bytes(write)
    with pytest.raises(UsageError) as error:
        iddpm_jax.load(str(tmp_path))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500
