import os

import numpy as np
import pytest

from iddpm_jax.errors import UsageError
from iddpm_jax.files.lock import lock
from iddpm_jax.torch_io import run
from iddpm_jax.torch_io.files import read_state_dict, write_state_dict


def test_write_run_leaves_alone_what_another_process_writes(tmp_path):
    with lock(tmp_path), pytest.raises(UsageError, match="is being written by another process"):
        run.write_run(None, None, None, tmp_path, None)
    assert os.listdir(tmp_path) == [".lock"]


def test_write_state_dict_follows_no_link_at_a_name_that_can_be_guessed(tmp_path):
    (tmp_path / "elsewhere").write_text("kept")
    (tmp_path / "x.pt.tmp").symlink_to(tmp_path / "elsewhere")
    write_state_dict(tmp_path / "x.pt", {"a": np.ones(3, np.float32)})
    assert (tmp_path / "elsewhere").read_text() == "kept"
    np.testing.assert_array_equal(read_state_dict(tmp_path / "x.pt")["a"], np.ones(3))
