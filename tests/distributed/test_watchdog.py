import pytest

from iddpm_jax.distributed.watchdog import Judge, Status

TIMEOUT = 100.0


def _status(step: int, beats: int, doing: str = "training", **changes) -> Status:
    return Status(beats, 2 * step + (doing == "saving"), step, doing, TIMEOUT)._replace(**changes)


@pytest.fixture
def judge():
    """The judge of three processes that were all at step 7 at time 0."""
    judge = Judge(tuple(f"process {n} (host{n}, pid {1000 + n})" for n in range(3)), silence=10)
    _hear_all(judge, [7, 7, 7], now=0, beats=0)
    return judge


def _hear_all(judge, steps, now, beats, **changes):
    for process, step in enumerate(steps):
        judge.hear(process, _status(step, beats, **changes), now)


def test_judge_has_nothing_to_say_while_all_go_on(judge):
    for now in range(5, 500, 5):
        _hear_all(judge, [7 + now] * 3, now, beats=now)
        assert judge.reason_to_end(now) == ""


def test_judge_misses_a_process_that_is_silent(judge):
    for now in (4, 8, 12):
        for process in (0, 2):
            judge.hear(process, _status(7, now), now)
    assert judge.reason_to_end(10) == ""
    assert judge.reason_to_end(12) == (
        "no sign of life for 10 s from process 1 (host1, pid 1001; step 7, training): gone or "
        "frozen"
    )


def test_judge_names_one_whose_connection_is_closed_unless_it_has_ended(judge):
    gone = "process 2 (host2, pid 1002; step 7, training) is gone; if it ended with an error, it"
    assert judge.reason_to_end(1, closed=[2]).startswith(gone)
    judge.hear(2, _status(7, 1, ended=True), 1)
    assert judge.reason_to_end(1, closed=[2]) == ""
    assert judge.reason_to_end(1, closed=[1, 2]).startswith("process 1 ")


def test_judge_names_the_process_that_the_others_wait_for(judge):
    _hear_all(judge, [9, 9, 8], now=5, beats=1)
    for now in range(10, 110, 5):
        _hear_all(judge, [9, 9, 8], now, beats=now)
    assert judge.reason_to_end(105) == ""
    assert judge.reason_to_end(106) == (
        "no step for 100 s: process 2 (host2, pid 1002; step 8, training); the others wait for it"
    )


def test_judge_names_all_that_are_equally_far(judge):
    for now in range(5, 110, 5):
        _hear_all(judge, [7, 7, 7], now, beats=now)
    assert judge.reason_to_end(105).count("process ") == 3


def test_judge_takes_other_work_at_the_same_step_for_progress(judge):
    for now in range(5, 100, 5):
        _hear_all(judge, [7, 7, 7], now, beats=now)
    for now in range(99, 195, 5):
        _hear_all(judge, [7, 7, 7], now, beats=now, doing="saving")
        assert judge.reason_to_end(now) == ""


def test_judge_gives_all_time_to_who_has_no_timeout(judge):
    for now in range(5, 500, 5):
        _hear_all(judge, [7, 7, 7], now, beats=now, timeout=0)
        assert judge.reason_to_end(now) == ""
    _hear_all(judge, [7, 7, 7], 500, beats=500)  # A new `Watch`, at the same place.
    assert judge.reason_to_end(501) == ""


def test_judge_that_never_misses_a_process_hears_of_its_end_all_the_same():
    judge = Judge(("process 0 (a, pid 1)", "process 1 (b, pid 2)"), silence=0)
    judge.hear(0, Status(), 0)
    judge.hear(1, Status(), 0)
    assert judge.reason_to_end(10**6) == ""
    assert judge.reason_to_end(10**6, closed=[1]).startswith("process 1 (b, pid 2; starting) is")
