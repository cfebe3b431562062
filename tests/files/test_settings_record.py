import pytest

from iddpm_jax.errors import UsageError
from iddpm_jax.files.settings_record import differing_settings, read_settings, record_settings

SETTINGS = {"seed": 1, "labels": (0, 1)}


def test_record_settings_refuses_a_directory_of_something_else(tmp_path):
    record_settings(tmp_path / "out", SETTINGS)
    record_settings(tmp_path / "out", SETTINGS)
    with pytest.raises(UsageError, match="seed: there 1, now 2\nchoose another --out"):
        record_settings(tmp_path / "out", {**SETTINGS, "seed": 2})
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "thesis.tex").write_text("")
    with pytest.raises(UsageError, match="holds other files; choose another --out"):
        record_settings(tmp_path / "private", SETTINGS)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        record_settings(tmp_path / "file" / "out", SETTINGS)


def test_differing_settings_compares_with_what_was_read_back(tmp_path):
    record_settings(tmp_path, SETTINGS)
    before = read_settings(tmp_path / "sampling.json")
    assert differing_settings(before, SETTINGS) == []
    changed = {"seed": 1, "labels": (0, 2), "eta": 0.5}
    lines = ["eta: there None, now 0.5", "labels: there [0, 1], now [0, 2]"]
    assert differing_settings(before, changed) == lines


@pytest.mark.parametrize("text", ["[]", "{", "3"])
def test_read_settings_refuses_what_is_no_record(tmp_path, text):
    (tmp_path / "sampling.json").write_text(text)
    with pytest.raises(UsageError, match=r"sampling\.json .*; delete it"):
        read_settings(tmp_path / "sampling.json", "delete it")
