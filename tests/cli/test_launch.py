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


def test_join_refuses_an_address_without_the_rest(flag):
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
    assert launch._from_flags() is None


def test_code_digest_is_that_of_every_file_below_the_package(tmp_path):
    assert (launch._PACKAGE / "diffusion" / "gaussian.py").exists()
    (tmp_path / "diffusion").mkdir()
    digests = set()
    for text in ("a = 1", "a = 2"):
        (tmp_path / "diffusion" / "gaussian.py").write_text(text)
        digests.add(launch._code_digest(tmp_path))
    assert len(digests) == 2
