import pytest

from iddpm_jax.cli import launch
from iddpm_jax.errors import UsageError


@pytest.fixture
def flag(monkeypatch):
    """Sets flags of this module to values, as the command line would."""

    def set_flags(**values):
        for name, value in values.items():
            monkeypatch.setattr(launch, name, _Flag(name, value))

    set_flags(_COORDINATOR=None, _COUNT=None, _ID=None, _START=1.0, _TIMEOUT=1.0)
    return set_flags


class _Flag:
    def __init__(self, name, value):
        self.name, self.value = name, value


@pytest.mark.parametrize("name", ["_START", "_TIMEOUT"])
def test_join_refuses_a_time_that_is_none(flag, name):
    flag(**{name: float("nan")})
    with pytest.raises(UsageError, match="nan: give a number of seconds"):
        launch.join()


def test_join_refuses_a_place_that_is_half_said(flag):
    flag(_COUNT=2)
    with pytest.raises(UsageError, match="--coordinator_address and --process_id missing"):
        launch.join()


def test_join_refuses_a_number_that_no_process_has(flag):
    flag(_COORDINATOR="node0:1234", _COUNT=2, _ID=2)
    with pytest.raises(UsageError, match="--process_id=2 must be from 0 to --num_processes=2"):
        launch.join()


def test_join_leaves_a_process_alone_that_says_so(flag):
    flag(_COUNT=1)
    launch.join()
    assert launch._given_place() is None
