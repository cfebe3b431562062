import os
import pathlib

import pytest

from iddpm_jax.errors import UsageError
from iddpm_jax.files import atomic, untrusted


def test_read_json_reads_what_write_json_wrote(tmp_path):
    file = tmp_path / "record.json"
    atomic.write_json(file, {"name": "dög", "sizes": (1, 2)})
    assert untrusted.read_json(file, "the record") == {"name": "dög", "sizes": [1, 2]}
    assert os.listdir(tmp_path) == ["record.json"]


def test_write_atomically_does_not_follow_links_at_names_that_can_be_guessed(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("kept")
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("file", "file.tmp", ".file.tmp"):
        (folder / name).symlink_to(elsewhere)
    atomic.write_atomically(folder / "file", b"new")
    assert elsewhere.read_text() == "kept"
    assert (folder / "file").read_text() == "new"
    assert not (folder / "file").is_symlink()


def test_write_atomically_leaves_nothing_behind_where_it_fails(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("kept")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        atomic.write_atomically(file, b"new")
    assert os.listdir(tmp_path) == ["file"]
    assert file.read_text() == "kept"


def test_write_atomically_gives_each_writer_a_name_of_its_own(tmp_path, monkeypatch):
    """One that is overtaken by another still writes all of its own data."""
    replace = os.replace

    def overtaken(source, target):
        monkeypatch.setattr(os, "replace", replace)
        atomic.write_atomically(target, b"other")
        assert target.read_bytes() == b"other"
        replace(source, target)

    monkeypatch.setattr(os, "replace", overtaken)
    atomic.write_atomically(tmp_path / "file", b"mine")
    assert (tmp_path / "file").read_bytes() == b"mine"
    assert os.listdir(tmp_path) == ["file"]


def test_replacing_keeps_what_was_there_where_it_is_left_with_an_error(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(TypeError), atomic.replacing(path) as file:
        file.writelines([b"half", None])
    assert (path.read_text(), os.listdir(tmp_path)) == ("before", ["file"])


def test_remove_scratch_removes_what_a_kill_left_and_nothing_else(tmp_path):
    kept = {".lock", "file", "notes.tmp", ".mine.tmp"}
    for name in (*kept, ".file.0123456789abcdef.tmp"):
        (tmp_path / name).write_text("")
    atomic.remove_scratch(tmp_path)
    assert set(os.listdir(tmp_path)) == kept


def test_refusing_disk_errors_tells_the_systems_reason(tmp_path):
    with (
        pytest.raises(UsageError, match="/dev/full cannot be written: No space left on device"),
        atomic.refusing_disk_errors("/dev/full"),
    ):
        pathlib.Path("/dev/full").write_bytes(b"x")
