"""Times contestants against each other, each in a process of its own, in turns.

What one library's threads do while another's wait would disturb the comparison, so that only one
process computes at a time; and since machines are shared and their clocks drift, all take turns
within one run, and medians are compared.
"""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Contestant:
    """Something to be timed.

    Attributes:
      name: how tables call it.
      build: `module:function`. Called with `options` in the contestant's own process, it returns
        a dict of facts (such as the seconds it took to compile) and a function without arguments
        that does once what is timed, waiting until it is done.
      options: keyword arguments of that function.
      env: environment variables of the process.
    """

    name: str
    build: str
    options: Mapping[str, Any]
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Result:
    """What came of a contestant: `facts`, `seconds` of every turn; `error` where it failed."""

    name: str
    facts: Mapping[str, Any]
    seconds: Sequence[float]
    error: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds) if self.seconds else float("nan")


class _Player:
    """The process of a contestant; it computes only when asked to."""

    def __init__(self, contestant: Contestant):
        self.name = contestant.name
        command = [sys.executable, "-m", "benchmarks.contest", json.dumps(vars(contestant))]
        env = {**os.environ, **contestant.env}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, text=True
        )
        self.error = ""
        self.facts = self._read()

    def play(self) -> float | None:
        """Seconds of one turn, or None if it has failed."""
        if self.error:
            return None
        self._process.stdin.write("play\n")
        self._process.stdin.flush()
        return self._read().get("seconds")

    def leave(self) -> None:
        if not self.error:
            self._process.stdin.write("facts\n")
            self._process.stdin.flush()
            self.facts |= self._read()
        self._process.communicate()

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": f"exit status {self._process.wait()}"}
        self.error = answer.pop("error", "")
        return answer


def compete(
    contestants: Sequence[Contestant], rounds: int, warm_up: int = 2, progress=lambda done: None
) -> list[Result]:
    """Lets everyone play once in each of `rounds`, after some rounds that do not count."""
    players = [_Player(contestant) for contestant in contestants]
    seconds = {player.name: [] for player in players}
    for i in range(warm_up + rounds):
        for player in players:
            took = player.play()
            if took is not None and i >= warm_up:
                seconds[player.name].append(took)
        progress(i)
    for player in players:
        player.leave()
    return [Result(p.name, p.facts, seconds[p.name], p.error) for p in players]


def _serve(spec: Mapping[str, Any]) -> None:
    """A contestant's process: answers in lines of JSON on what was the standard output."""
    import importlib
    import resource
    import time

    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # Libraries print there.

    def answer(**values):
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    try:
        module, function = spec["build"].split(":")
        facts, run = getattr(importlib.import_module(module), function)(**spec["options"])
        answer(**facts)
        for line in sys.stdin:
            if line.strip() == "play":
                run()  # The system may have taken away memory that lay idle.
                start = time.perf_counter()
                run()
                answer(seconds=time.perf_counter() - start)
            else:
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                answer(peak_resident_bytes=peak * 1024)
    except Exception as error:  # Anything may go wrong in another library; the others go on.
        answer(error=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")


if __name__ == "__main__":
    _serve(json.loads(sys.argv[1]))
