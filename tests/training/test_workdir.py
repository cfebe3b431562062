import json

import pytest

from iddpm_jax.training.workdir import LockedError, lock, open_workdir, read_config, write_labels

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


def test_lock_keeps_others_out_until_it_is_left(tmp_path):
    refused = pytest.raises(LockedError, match="being written by another process")
    with lock(tmp_path), refused, lock(tmp_path):
        pass
    with lock(tmp_path):
        pass


def test_open_workdir_continues_a_run_of_an_older_version(tmp_path):
    defaults = {"model": {"width": 1, "added_since": False}}
    open_workdir(str(tmp_path / "run"), {"model": {"width": 2}}, ())
    new = {"model": {"width": 2, "added_since": False}}
    open_workdir(str(tmp_path / "run"), new, (), defaults)
    open_workdir(str(tmp_path / "other"), {"model": {"width": 2}}, ())
    changed = {"model": {"width": 2, "added_since": True}}
    with pytest.raises(ValueError, match="added_since: the directory has False, this run True"):
        open_workdir(str(tmp_path / "other"), changed, (), defaults)
