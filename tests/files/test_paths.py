import pathlib

import pytest

from iddpm_jax.errors import UsageError
from iddpm_jax.files.paths import local_path, refuse_unwritable


def test_local_path_expands_the_home_directory(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert local_path("~/runs", "--workdir") == pathlib.Path("/somewhere/runs")
    assert local_path("runs/a b", "--workdir") == pathlib.Path("runs/a b")
    assert local_path("~nobody-of-that-name/x", "it") == pathlib.Path("~nobody-of-that-name/x")


@pytest.mark.parametrize("text", ["gs://bucket/run", "s3://b", "file:///tmp", "https://host/x"])
def test_local_path_refuses_addresses(text):
    with pytest.raises(UsageError, match=f"--out={text}: .*Mount the bucket"):
        local_path(text, "--out")


@pytest.mark.parametrize("text", ["", "  ", "a\0b"])
def test_local_path_refuses_what_is_none(text):
    with pytest.raises(UsageError, match="is empty or no path"):
        local_path(text, "--out")


def test_refuse_unwritable_looks_at_what_is_there_and_makes_nothing(tmp_path, monkeypatch):
    refuse_unwritable(tmp_path / "new" / "run")
    refuse_unwritable(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"file/run cannot be written: .*/file is no directory"):
        refuse_unwritable(tmp_path / "file" / "run")
    monkeypatch.setattr("os.access", lambda path, mode: False)  # Root may write anywhere.
    with pytest.raises(UsageError, match=r"new/run cannot be written: .* is not writable"):
        refuse_unwritable(tmp_path / "new" / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
