"""What commands say of flags that are wrong: one line, at once, with exit status 2."""

import pathlib
import re
import subprocess
import sys

import pytest

from iddpm_jax.__main__ import COMMANDS
from iddpm_jax.diffusion.respacing import SPACING_NAMES
from tests.compiler import ROOT


def _python(*arguments: str, cwd: pathlib.Path = ROOT) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train --config=digits", "--workdir is missing: directory for checkpoints"),
        ("train --workdir=W", "--config is missing: name a recipe, as in --config=digits"),
        ("train --config=nope --workdir=W", "--config=nope: there is no such file, and no such"),
        ("train --config= --workdir=W", "--config is empty"),
        ("train --config --workdir=W", "--config is empty"),
        ("train --config=digits --config=digits --workdir=W", "--config is given 2 times"),
        ("train --config=digits --workdir=", "--workdir='' is empty"),
        ("train --config=digits --workdir=gs://b/r", "--workdir=gs://b/r: files are read and"),
        ("train --config=digits --workdir=W --config.train.batch_size=big", "whole number"),
        ("train --config=digits --workdir=W --config.train.batch_size=1.5e0", "whole number"),
        (
            "train --config=digits --workdir=W --config.train.lr=fast",
            "lr=fast: give a number",
        ),
        ("train --config=digits --workdir=W --config.train.seeed=1", "did you mean train.seed"),
        ("train --config=digits --workdir=W -config.train.seeed=1", "did you mean train.seed"),
        (
            "sample --workdir=W --show_steps=-1",
            "=-1: give a whole number of at least 0",
        ),
        ("sample --workdir=W --seed=-1", "--seed=-1: give a whole number from 0 to 4294967295"),
        ("sample --workdir=W --sampler=x", "--sampler=x: give one of ddpm, ddim, dpm-solver++"),
        ("sample --workdir=W --png=perhaps", "--png=perhaps: give true or false"),
        ("sample --workdir=W --num_samples=99999999999", "a whole number from 1 to 2147483647"),
        ("sample --workdir=W --peer_timeout=inf", "=inf: give a number from 0 to 1000000"),
        ("sample --workdir=W --start_timeout=-1", "=-1: give a number from 0 to 1000000"),
        ("sample --wrokdir=W", "there is no flag --wrokdir; is --workdir meant?"),
        ("sample --workdir=W more", "'more' is not a flag"),
        ("sample --workdir", "Missing value for flag --workdir"),
        ("prepare_data", "DATASET is missing"),
        ("nll", "--workdir is missing"),
    ],
)
def test_flags_that_are_wrong_are_one_line(line, message):
    command, *flags = line.split(" ")
    result = _python("-m", f"iddpm_jax.{command}", *flags)
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stderr.splitlines()[1:] == ["See --help"]
    assert result.returncode == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("sample --invert=", "--invert is empty: name image files"),
        ("sample --interpolate=", "--interpolate=: give two seeds"),
        ("sample --interpolate=-1,2", "--interpolate=-1,2: give two seeds from 0 to 4294967295"),
        ("nll --split=", "--split is empty: name a part of the data"),
        ("dp_respacing --split=", "--split is empty: name a part of the data"),
    ],
)
def test_lists_and_names_that_are_empty_are_refused(line, message):
    command, flag = line.split(" ")
    result = _python("-m", f"iddpm_jax.{command}", "--workdir=W", flag)
    assert result.stderr.startswith(f"error: {message}")
    assert len(result.stderr.splitlines()) == 1
    assert result.returncode == 1


_REFUSES_WITHOUT_JAX = """
import sys
from iddpm_jax import {name}
sys.argv = ["command", *{flags!r}]
sys.modules["jax"] = None  # Importing it is an error from here on.
{name}.run()
"""


@pytest.mark.parametrize("name", ["sample", "super_resolve", "nll", "dp_respacing", "export_torch"])
def test_a_directory_that_is_none_of_ours_is_refused_before_jax_is_imported(name, tmp_path):
    flags = [f"--workdir={tmp_path}"]
    flags += ["--out=exported"] if name == "export_torch" else []
    flags += ["--images=small"] if name == "super_resolve" else []
    result = _python("-c", _REFUSES_WITHOUT_JAX.format(name=name, flags=flags))
    assert result.stderr == f"error: {tmp_path} is not a work directory: it has no config.json\n"
    assert result.returncode == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_a_command_is_for_without_jax(name):
    program = _REFUSES_WITHOUT_JAX.format(name=name, flags=["--help"])
    result = _python("-c", program)
    assert result.returncode == 0, result.stderr
    assert f"python -m iddpm_jax.{name}" in result.stdout
    assert "  --traceback\n" in result.stdout
    if name in ("sample", "super_resolve"):  # Others' flags point to these.
        listed = re.findall(r"\b([a-z]+)N\b", result.stdout)
        assert set(listed) == set(SPACING_NAMES)
    assert max(map(len, result.stdout.splitlines())) <= 120


def test_help_of_train_lists_recipes_and_keys():
    text = _python("-m", "iddpm_jax.train", "--help").stdout
    assert "cifar10_cosine, " in text
    assert "\n  train.lr=1e-4" in text
    # The flags that only runs of several hosts need come last.
    assert text.index("--workdir") < text.index("--traceback") < text.index("--process_id")


def test_iddpm_names_its_commands_and_runs_them():
    listed = _python("-m", "iddpm_jax", "--help")
    assert listed.returncode == 0
    assert all(f"\n  {name} " in listed.stdout for name in COMMANDS)
    assert "Draws samples from a trained model." in listed.stdout
    wrong = _python("-m", "iddpm_jax", "smaple")
    assert wrong.stderr == "error: there is no command 'smaple': is sample meant?\n"
    assert wrong.returncode == 2
    refused = _python("-m", "iddpm_jax", "check-workdir", "--workdir=nowhere")
    assert refused.stderr == "error: nowhere is not a directory\n"
    refused = _python("-m", "iddpm_jax", "check_workdir", "--workdir=docs")
    assert refused.stderr.startswith("error: docs is not a work directory: it has neither")


def test_a_bug_keeps_its_traceback_and_a_refusal_has_one_if_asked(tmp_path):
    program = """
import sys
from iddpm_jax.cli import command
from iddpm_jax.errors import UsageError
def main():
    raise {error}("what it says")
command(main)()
"""
    bug = _python("-c", program.format(error="ValueError"))
    assert "Traceback" in bug.stderr
    assert bug.returncode == 1
    refused = _python("-c", program.format(error="UsageError"))
    assert refused.stderr == "error: what it says\n"
    shown = _python("-c", program.format(error="UsageError"), "--traceback")
    assert "Traceback" in shown.stderr
    assert shown.stderr.endswith("error: what it says\n")
    stopped = _python("-c", program.format(error="KeyboardInterrupt"))
    assert stopped.stderr == "interrupted\n"
    assert stopped.returncode == 130


def test_several_commands_can_be_imported_into_one_program():
    result = _python("-c", "from iddpm_jax import check_workdir, export_torch, train")
    assert result.returncode == 0, result.stderr


def test_help_shows_a_shared_flag_only_where_a_command_has_it():
    have_respacing = set()
    for name in COMMANDS:
        text = _python("-c", _REFUSES_WITHOUT_JAX.format(name=name, flags=["--help"])).stdout
        if "  --respacing=" in text:
            have_respacing.add(name)
    assert have_respacing == {"sample", "super_resolve", "nll"}
