import pytest

from iddpm_jax.distributed import SharedFlag, on_first
from tests import tiny


def test_on_first_returns_what_was_found_and_raises_what_went_wrong():
    assert on_first(lambda: 7) == 7
    assert on_first(lambda: True) == 1
    assert on_first(lambda: None) == 0

    def fail():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        on_first(fail)


def test_shared_flag_of_a_process_alone_is_its_own():
    flag = SharedFlag(tiny.mesh(8))
    assert [flag.ask(raised) for raised in (False, True, False)] == [False, True, False]
