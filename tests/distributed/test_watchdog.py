import pytest

from iddpm_jax.distributed.watchdog import Ledger, Sign, Watch

TIMEOUT = 100.0


def _sign(process: int, step: int, count: int, doing: str = "training", ended: str = "") -> Sign:
    place = 2 * step + (doing == "saving")
    return Sign(f"host{process}", 1000 + process, place, step, doing, count, ended)


@pytest.fixture
def ledger():
    """Three processes that were all at step 7 at time 0; this is the first of them."""
    ledger = Ledger(me=0, timeout=TIMEOUT)
    for process in range(3):
        ledger.hear(process, _sign(process, 7, 0), now=0)
    return ledger


def _hear_all(ledger, steps, now, count):
    for process, step in enumerate(steps):
        ledger.hear(process, _sign(process, step, count), now)


def test_ledger_has_nothing_to_say_while_all_go_on(ledger):
    for now in range(5, 500, 5):
        _hear_all(ledger, [7 + now] * 3, now, count=now)
        assert ledger.complaint(now) is None


def test_ledger_misses_a_process_that_is_silent(ledger):
    for now in (4, 8, 12):
        for process in (0, 2):
            ledger.hear(process, _sign(process, 7, now), now)
    assert ledger.complaint(10) is None
    assert ledger.complaint(12) == (
        "no sign of life for 10 s from process 1 (host1, pid 1001; step 7, training): gone or "
        "frozen"
    )


def test_ledger_names_the_process_that_the_others_wait_for(ledger):
    _hear_all(ledger, [9, 9, 8], now=5, count=1)
    for now in range(10, 110, 5):
        _hear_all(ledger, [9, 9, 8], now, count=now)
    assert ledger.complaint(105) is None
    assert ledger.complaint(106) == (
        "no step for 100 s: process 2 (host2, pid 1002; step 8, training); the others wait for it"
    )


def test_ledger_names_all_that_are_equally_far(ledger):
    for now in range(5, 110, 5):
        _hear_all(ledger, [7, 7, 7], now, count=now)
    assert ledger.complaint(105).count("process ") == 3


def test_ledger_hears_that_one_ended_with_an_error_or_is_done(ledger):
    _hear_all(ledger, [8, 8, 8], now=50, count=1)
    ledger.hear(1, _sign(1, 8, 1, ended="done"), now=50)
    for now in (55, 60, 65):
        for process in (0, 2):
            ledger.hear(process, _sign(process, 9, now), now)
        assert ledger.complaint(now) is None
    ledger.hear(2, _sign(2, 9, 1, ended="failed"), now=66)
    assert "process 2 (host2" in ledger.complaint(66)
    assert ledger.complaint(66).endswith("ended with an error")
    assert ledger.others_ended()


def test_ledger_of_a_process_that_failed_itself_looks_for_one_that_is_gone(ledger):
    ledger.hear(0, _sign(0, 7, 1, ended="failed"), now=1)
    ledger.hear(2, _sign(2, 7, 1, ended="failed"), now=2)
    assert ledger.complaint(9) is None
    assert not ledger.others_ended()
    assert ledger.complaint(11).startswith("no sign of life for 10 s from process 1")
    ledger.hear(1, _sign(1, 7, 1, ended="done"), now=11)
    assert ledger.complaint(12) is None
    assert ledger.others_ended()


def test_ledger_takes_other_work_at_the_same_step_for_progress(ledger):
    for now in range(5, 100, 5):
        _hear_all(ledger, [7, 7, 7], now, count=now)
    for process in range(3):
        ledger.hear(process, _sign(process, 7, 99, doing="saving"), now=99)
    for now in range(100, 195, 5):
        for process in range(3):
            ledger.hear(process, _sign(process, 7, now, doing="saving"), now)
        assert ledger.complaint(now) is None


def test_watch_goes_on_when_a_sign_cannot_be_written(tmp_path):
    watch = Watch(tmp_path / "gone", timeout=60)
    watch._tell()  # There is no such directory.
    assert not (tmp_path / "gone").exists()
