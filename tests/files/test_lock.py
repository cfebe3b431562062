import os

import pytest

from iddpm_jax.errors import UsageError
from iddpm_jax.files.lock import LockedError, lock


def test_lock_keeps_others_out_until_it_is_left(tmp_path):
    refused = pytest.raises(LockedError, match="being written by another process")
    with lock(tmp_path), refused, lock(tmp_path):
        pass
    with lock(tmp_path):
        pass


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (os.mkdir, "Is a directory"),
        (os.mkfifo, "not a regular file"),  # And does not wait for who reads from it.
        (lambda path: path.symlink_to(path.parent / "elsewhere"), "symbolic links"),
        (lambda path: path.symlink_to("/dev/null"), "symbolic links"),
    ],
)
def test_lock_takes_a_regular_file_only(tmp_path, make, reason):
    make(tmp_path / ".lock")
    with pytest.raises(UsageError, match=f"cannot be written: .*{reason}"), lock(tmp_path):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_lock_makes_the_directory_or_says_why_it_cannot(tmp_path):
    with lock(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b" / ".lock").exists()
    (tmp_path / "file").write_text("")
    refused = pytest.raises(UsageError, match=r"file/run cannot be written: .*Not a directory")
    with refused, lock(tmp_path / "file" / "run"):
        pass
    with pytest.raises(UsageError, match="--workdir is empty"), lock(" "):
        pass
