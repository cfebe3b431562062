import time

from benchmarks.contest import Contestant, compete


def sleeper(seconds: float):
    print("libraries print")
    return {"asked_for": seconds}, lambda: time.sleep(seconds)


def failing():
    raise RuntimeError("it cannot be built")


def falling():
    raise SystemExit(3)


def _contestant(name: str, **options) -> Contestant:
    return Contestant(name, f"tests.benchmarks.test_contest:{name}", options)


def test_compete_times_everyone_and_survives_those_who_fail():
    contestants = [_contestant("sleeper", seconds=0.02), _contestant("failing")]
    contestants.append(_contestant("falling"))
    asleep, failed, gone = compete(contestants, rounds=3, warm_up=1)
    assert asleep.facts["asked_for"] == 0.02
    assert asleep.facts["peak_resident_bytes"] > 2**20
    assert len(asleep.seconds) == 3
    assert asleep.median >= 0.02
    assert failed.error == "RuntimeError: it cannot be built"
    assert gone.error == "exit status 3"
    assert not failed.seconds
