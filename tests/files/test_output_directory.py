import json
import os
import subprocess
import sys

import numpy as np
import pytest

from iddpm_jax.errors import UsageError
from iddpm_jax.files.output_directory import (
    default_directory,
    lock_and_record,
    remove_shards_and_record,
    remove_shards_of_other_settings,
)
from iddpm_jax.files.shards import Shards
from tests.compiler import ROOT

SETTINGS = {"seed": 1}


def test_lock_and_record_lets_one_process_write(tmp_path):
    out = tmp_path / "out"
    program = (
        "import pathlib, sys\n"
        "from iddpm_jax.files.output_directory import lock_and_record\n"
        "with lock_and_record(pathlib.Path(sys.argv[1]), {'seed': 1}):\n"
        "    print('locked', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", program, str(out)], cwd=ROOT, **pipes) as first:
        assert first.stdout.readline() == "locked\n"
        second = lock_and_record(out, SETTINGS)
        with pytest.raises(UsageError, match=r"/out is being written") as error:
            second.__enter__()
        assert "\n" not in str(error.value)
        first.stdin.close()
    with lock_and_record(out, SETTINGS):
        pass


def test_lock_and_record_leaves_nothing_in_a_directory_that_it_refuses(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UsageError, match="holds other files; choose another --out"):
        lock_and_record(tmp_path, SETTINGS).__enter__()
    assert os.listdir(tmp_path) == ["thesis.tex"]
    with pytest.raises(UsageError, match="cannot be written: Not a directory"):
        lock_and_record(tmp_path / "thesis.tex" / "out", SETTINGS).__enter__()


def test_lock_and_record_removes_what_a_kill_left_half_written(tmp_path):
    with lock_and_record(tmp_path / "out", SETTINGS):
        (tmp_path / "out" / ".samples.npz.0123456789abcdef.tmp").write_bytes(b"PK")
    with lock_and_record(tmp_path / "out", SETTINGS):
        assert sorted(os.listdir(tmp_path / "out")) == [".lock", "sampling.json"]


def test_default_directory_names_all_that_results_depend_on(tmp_path):
    def named(**changes):
        settings = {"respacing": "10,15", "guidance": 1.0} | changes
        parts = ("ddim", settings["respacing"], None, "", "seed0")
        return default_directory(str(tmp_path), "samples", parts, settings)

    path = named()
    assert path.parent == tmp_path / "samples"
    assert path.name.startswith("ddim_10-15_seed0_")
    assert len({path, named(guidance=2.0), named(respacing="10,16")}) == 3
    long = named(respacing=",".join(["1"] * 500))
    assert len(long.name) < 100
    assert long != named(respacing=",".join(["1"] * 501))


SEARCH = {"step": 1000, "ema": "0.9", "seed": 0}
ADVICE = "move it away"


def _locked(scratch, settings):
    return lock_and_record(scratch, settings, "settings.json", ADVICE)


def _begin(scratch, settings=SEARCH):
    """A search that was stopped after two images."""
    remove_shards_of_other_settings(scratch, settings, "settings.json", ADVICE)
    shards = Shards(scratch / "shards", 4)
    with _locked(scratch, settings):
        if not shards.done():
            shards.write(0, 2, {"prior": np.zeros(3)})
    return shards


def test_remove_shards_of_other_settings_removes_what_is_left_of_another_search(tmp_path, capsys):
    scratch = tmp_path / "dp_respacing"
    shards = _begin(scratch)
    remove_shards_of_other_settings(scratch, SEARCH, "settings.json", ADVICE)
    assert shards.done() == 2
    other = {**SEARCH, "step": 2000}
    remove_shards_of_other_settings(scratch, other, "settings.json", ADVICE)
    assert shards.done() == 0
    assert "starting anew" in capsys.readouterr().out
    with _locked(scratch, other):
        assert json.loads((scratch / "settings.json").read_text()) == other


def test_remove_shards_and_record_removes_nothing_that_is_not_its_own(tmp_path):
    scratch = tmp_path / "dp_respacing"
    scratch.mkdir()
    (scratch / "thesis.tex").write_text("")
    with pytest.raises(UsageError, match="holds other files; move it away"):
        _begin(scratch)
    # A record of other results, in the place of ours.
    (scratch / "settings.json").write_text('{"split": "test"}')
    with pytest.raises(UsageError, match=r"holds results of another run(.|\n)*move it away"):
        _begin(scratch)
    assert sorted(os.listdir(scratch)) == ["settings.json", "thesis.tex"]
    (scratch / "settings.json").unlink()
    (scratch / "thesis.tex").rename(tmp_path / "thesis.tex")
    _begin(scratch)
    (tmp_path / "thesis.tex").rename(scratch / "shards" / "thesis.tex")
    with _locked(scratch, SEARCH):
        remove_shards_and_record(scratch, "settings.json")
    assert os.listdir(scratch) == ["shards"]
    assert os.listdir(scratch / "shards") == ["thesis.tex"]


def test_remove_shards_of_other_settings_leaves_alone_what_is_being_written(tmp_path):
    scratch = tmp_path / "dp_respacing"
    shards = _begin(scratch)
    with _locked(scratch, SEARCH), pytest.raises(UsageError, match="is being written by"):
        remove_shards_of_other_settings(scratch, {**SEARCH, "step": 2000}, "settings.json", ADVICE)
    assert shards.done() == 2
