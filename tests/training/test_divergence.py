import pytest

from iddpm_jax.training.divergence import Divergence


def _warnings(bound, losses, **more):
    divergence = Divergence(bound)
    return [divergence.warning(step, {"loss": loss, **more}) for step, loss in enumerate(losses, 1)]


def test_warning_of_an_error_that_explodes_is_given_once():
    quiet, first, *later = _warnings(False, [0.9, 1.9e14, 2e14, float("inf")])
    assert quiet is None
    assert first.startswith("step 2: the error is 1.9e+14, about 1 before any training: training")
    assert "train.lr" in first
    assert later == [None, None]


def test_warning_is_given_of_the_first_line_of_the_log():
    assert "diverged" in _warnings(False, [1e4])[0]
    assert "diverged" in _warnings(True, [1e14])[0]


def test_warning_does_not_take_the_bound_of_variances_for_an_error():
    assert _warnings(False, [5e3, 2e4, 10.0], mse=1.1) == [None] * 3
    assert "the loss is 2e+07, at first it was 5e+03" in _warnings(False, [5e3, 2e7], mse=1.1)[1]


@pytest.mark.parametrize("losses", [[9e4, 20.0, 8e4], [3e5, 5.0, 2e7, 2e8], [1.0, 9e5]])
def test_warning_is_not_of_a_bound_that_is_large_next_to_the_data(losses):
    assert _warnings(True, losses) == [None] * len(losses)


def test_warning_of_a_bound_that_explodes():
    assert "the loss is 1e+10, at first it was 20" in _warnings(True, [20.0, 1e10])[1]


def test_warning_needs_a_step_that_was_not_skipped():
    assert Divergence(bound=False).warning(1, {"lr": 1.0}) is None
