import dataclasses
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from iddpm_jax.errors import UsageError
from iddpm_jax.files.output_directory import (
    default_directory,
    drop_other,
    model_digest,
    own,
    remove_own,
)
from iddpm_jax.files.shards import Shards
from tests.conftest import ROOT
from tests.test_trained import trained_model

SETTINGS = {"seed": 1}


def test_own_lets_one_process_write(tmp_path):
    out = tmp_path / "out"
    program = (
        "import pathlib, sys\n"
        "from iddpm_jax.files.output_directory import own\n"
        "with own(pathlib.Path(sys.argv[1]), {'seed': 1}):\n"
        "    print('owned', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", program, str(out)], cwd=ROOT, **pipes) as first:
        assert first.stdout.readline() == "owned\n"
        second = own(out, SETTINGS)
        with pytest.raises(UsageError, match=r"/out is being written") as error:
            second.__enter__()
        assert "\n" not in str(error.value)
        first.stdin.close()
    with own(out, SETTINGS):
        pass


def test_own_leaves_nothing_in_a_directory_that_it_refuses(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UsageError, match="holds other files; choose another --out"):
        own(tmp_path, SETTINGS).__enter__()
    assert os.listdir(tmp_path) == ["thesis.tex"]
    with pytest.raises(UsageError, match="cannot be written: Not a directory"):
        own(tmp_path / "thesis.tex" / "out", SETTINGS).__enter__()


def test_own_removes_what_a_kill_left_half_written(tmp_path):
    with own(tmp_path / "out", SETTINGS):
        (tmp_path / "out" / ".samples.npz.0123456789abcdef.tmp").write_bytes(b"PK")
    with own(tmp_path / "out", SETTINGS):
        assert sorted(os.listdir(tmp_path / "out")) == [".lock", "sampling.json"]


def test_model_digest_is_of_parameters_and_schedule_and_of_no_path():
    model = trained_model()
    digest = model_digest(model)
    assert digest == model_digest(dataclasses.replace(model, step=3))
    changed = jax.tree.map(np.array, model.params)
    leaf = jax.tree.leaves(changed)[-1]
    leaf.ravel()[0] += 1
    assert digest != model_digest(dataclasses.replace(model, params=changed))
    assert digest != model_digest(dataclasses.replace(model, betas=model.betas * 0.5))


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
MEND = "move it away"


def _own(scratch, settings):
    return own(scratch, settings, "settings.json", MEND)


def _begin(scratch, settings=SEARCH):
    """A search that was stopped after two images."""
    drop_other(scratch, settings, "settings.json", MEND)
    shards = Shards(scratch / "shards", 4)
    with _own(scratch, settings):
        if not shards.done():
            shards.write(0, 2, {"prior": np.zeros(3)})
    return shards


def test_drop_other_drops_what_is_left_of_another_search(tmp_path, capsys):
    scratch = tmp_path / "dp_respacing"
    shards = _begin(scratch)
    drop_other(scratch, SEARCH, "settings.json", MEND)
    assert shards.done() == 2
    other = {**SEARCH, "step": 2000}
    drop_other(scratch, other, "settings.json", MEND)
    assert shards.done() == 0
    assert "starting anew" in capsys.readouterr().out
    with _own(scratch, other):
        assert json.loads((scratch / "settings.json").read_text()) == other


def test_remove_own_removes_nothing_that_is_not_its_own(tmp_path):
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
    with _own(scratch, SEARCH):
        remove_own(scratch, "settings.json")
    assert os.listdir(scratch) == ["shards"]
    assert os.listdir(scratch / "shards") == ["thesis.tex"]


def test_drop_other_leaves_alone_what_is_being_written(tmp_path):
    scratch = tmp_path / "dp_respacing"
    shards = _begin(scratch)
    with _own(scratch, SEARCH), pytest.raises(UsageError, match="is being written by"):
        drop_other(scratch, {**SEARCH, "step": 2000}, "settings.json", MEND)
    assert shards.done() == 2
