"""A damaged work directory: what is found, and that training goes on from what is sound."""

import shutil

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
