import fcntl
import json
import os

import pytest

from iddpm_jax.errors import UsageError
from iddpm_jax.files.lock import LockedError, lock
from iddpm_jax.files.workdir import known_labels, open_workdir, read_config, write_labels

CONFIG = {"model": {"mult": (1, 2)}, "train": {"lr": 0.1, "num_steps": 5}}
MAY_CHANGE = {"train.num_steps"}


def test_open_workdir_records_the_configuration(tmp_path):
    workdir = open_workdir(str(tmp_path / "a" / "b"), CONFIG, MAY_CHANGE)
    assert read_config(workdir) == json.loads(json.dumps(CONFIG))
    write_labels(workdir, ("cat", "dög"))
    assert json.loads((workdir / "labels.json").read_text(encoding="utf-8")) == ["cat", "dög"]


def test_open_workdir_lets_a_run_continue_for_longer(tmp_path):
    open_workdir(str(tmp_path), CONFIG, MAY_CHANGE)
    longer = {**CONFIG, "train": {"lr": 0.1, "num_steps": 9}}
    assert read_config(open_workdir(str(tmp_path), longer, MAY_CHANGE))["train"]["num_steps"] == 9


def test_open_workdir_lists_every_key_that_differs(tmp_path):
    open_workdir(str(tmp_path), CONFIG, MAY_CHANGE)
    other = {"model": {"mult": (1, 4)}, "train": {"lr": 0.2, "num_steps": 9, "new": True}}
    with pytest.raises(ValueError, match="another configuration") as error:
        open_workdir(str(tmp_path), other, MAY_CHANGE)
    message = str(error.value)
    assert "model.mult: the directory has [1, 2], this run [1, 4]" in message
    assert "train.lr: the directory has 0.1, this run 0.2" in message
    assert "train.new: the directory has nothing, this run True" in message
    assert "num_steps" not in message
    assert read_config(tmp_path)["train"]["lr"] == 0.1


def test_open_workdir_refuses_what_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"file/run cannot be written"):
        open_workdir(str(tmp_path / "file" / "run"), CONFIG, MAY_CHANGE)


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_open_workdir_refuses_a_broken_config(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config.json cannot be read"):
        open_workdir(str(tmp_path), CONFIG, MAY_CHANGE)


def test_open_workdir_refuses_checkpoints_of_an_unknown_run(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ValueError, match=r"checkpoints, but no config.json"):
        open_workdir(str(tmp_path), CONFIG, MAY_CHANGE)


def test_open_workdir_refuses_an_empty_name():
    with pytest.raises(ValueError, match="--workdir is empty"):
        open_workdir("", CONFIG, MAY_CHANGE)


def test_open_workdir_leaves_the_record_of_a_run_under_way(tmp_path):
    open_workdir(str(tmp_path), CONFIG, MAY_CHANGE)
    longer = {**CONFIG, "train": {"lr": 0.1, "num_steps": 9}}
    # As another process has it.
    with (tmp_path / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(LockedError, match="being written by another process"):
            open_workdir(str(tmp_path), longer, MAY_CHANGE)
    assert read_config(tmp_path)["train"]["num_steps"] == 5
    with lock(tmp_path):
        open_workdir(str(tmp_path), longer, MAY_CHANGE)
    assert read_config(tmp_path)["train"]["num_steps"] == 9


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (os.mkdir, "not a regular file"),
        (os.mkfifo, "not a regular file"),
        (lambda path: path.write_text("[" * 100_000), "nested too deeply"),
        (lambda path: path.write_text('{"a":' * 100 + "1" + "}" * 100), "(nested too|no list)"),
        (lambda path: path.write_text('"a"'), "it holds no"),
        (lambda path: path.write_bytes(b"\xff"), "no text"),
        (lambda path: path.symlink_to("nowhere"), "No such file"),
    ],
)
def test_read_config_and_known_labels_refuse_in_one_line(tmp_path, make, reason):
    for name in ("config.json", "labels.json"):
        make(tmp_path / name)
    readers = (lambda: read_config(tmp_path), lambda: known_labels(str(tmp_path)))
    for read in (*readers, lambda: open_workdir(str(tmp_path), CONFIG, MAY_CHANGE)):
        with pytest.raises(UsageError, match=f"json cannot be read: .*{reason}") as error:
            read()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("names", ["[1]", '{"a": 1}', "null", "3"])
def test_known_labels_are_a_list_of_names(tmp_path, names):
    (tmp_path / "labels.json").write_text(names)
    with pytest.raises(UsageError, match="it holds no list of names"):
        known_labels(str(tmp_path))
