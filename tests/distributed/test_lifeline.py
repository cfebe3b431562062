import queue
import socket
import threading

import pytest

from iddpm_jax.distributed import lifeline
from iddpm_jax.distributed.roll_call import Line, Member

ENOUGH = 60  # Seconds that no test waits for.


@pytest.fixture
def complaints(monkeypatch):
    """What this process would have ended with."""
    heard = queue.Queue()
    monkeypatch.setattr(lifeline, "_GRACE_SECONDS", 0.0)
    monkeypatch.setattr(lifeline, "end_now", lambda me, complaint: heard.put((me, complaint)))
    return heard


@pytest.fixture
def pair():
    """Makes a line to a process, and its other end."""
    made = []

    def make(process: int) -> tuple[Line, Line]:
        here, there = map(Line, socket.socketpair())
        here.member = Member(process, 3, f"host{process}", 100 + process)
        made.extend((here, there))
        return here, there

    yield make
    for line in made:
        line.close()


def _end(line: lifeline.Lifeline) -> None:
    line._thread.join(ENOUGH)
    assert not line._thread.is_alive()


def test_lifeline_names_who_is_gone_and_tells_the_others(complaints, pair):
    first, second = pair(1), pair(2)
    line = lifeline.Lifeline(0, [first[0], second[0]])
    second[1].close()
    gone = "process 2 (host2, pid 102) is gone; if it ended with an error, it says why"
    assert complaints.get(timeout=ENOUGH) == (0, gone)
    assert line.broken.is_set()
    assert first[1].wait(ENOUGH) == {"gone": gone}
    first[1].tell(bye=True)
    _end(line)


def test_lifeline_says_who_is_gone_as_process_0_says_it(complaints, pair):
    here, there = pair(0)
    line = lifeline.Lifeline(1, [here])
    there.tell(gone="process 2 is gone")
    assert complaints.get(timeout=ENOUGH) == (1, "process 2 is gone")
    there.tell(bye=True)
    _end(line)


def test_lifeline_lets_one_go_that_has_taken_its_leave(complaints, pair):
    first, second = pair(1), pair(2)
    line = lifeline.Lifeline(0, [first[0], second[0]])
    first[1].tell(bye=True)
    first[1].close()
    second[1].close()
    assert "process 2" in complaints.get(timeout=ENOUGH)[1]
    _end(line)
    assert complaints.empty()


def test_lifeline_that_was_left_complains_of_nobody(complaints, pair):
    here, there = pair(0)
    line = lifeline.Lifeline(1, [here])
    line.leave()
    assert there.wait(ENOUGH) == {"bye": True}
    there.close()
    _end(line)
    assert complaints.empty()


def test_lifeline_leaves_the_word_to_a_process_that_is_about_to_end(complaints, pair, monkeypatch):
    slept = []
    monkeypatch.setattr(lifeline.time, "sleep", slept.append)
    monkeypatch.setattr(lifeline.ending, "about_to_end", threading.Event())
    lifeline.ending.about_to_end.set()
    here, there = pair(0)
    line = lifeline.Lifeline(1, [here])
    there.close()
    complaints.get(timeout=ENOUGH)
    _end(line)
    assert slept == [lifeline._OWN_GRACE_SECONDS]
