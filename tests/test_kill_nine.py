"""A run that is killed with SIGKILL now and then ends as if nothing had happened."""

from benchmarks.kill_nine import torture
from tests.commands import environment


def test_killed_runs_end_in_the_bits_of_an_undisturbed_one(tmp_path, monkeypatch):
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    result = torture(tmp_path, kills=3, steps=30, seed=1)
    assert result["kills"] == 3
    assert result["completed_runs"] >= 1
