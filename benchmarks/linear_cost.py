"""Shows that cost grows in proportion to the work: time and memory against batch and steps.

    python -m benchmarks.linear_cost --recipe=digits

Prints two tables: a train step for growing batches, and sampling for growing numbers of steps.
Memory is what the compiled program needs besides its arguments.
"""

import statistics
import time

from absl import app, flags

from benchmarks.jax_contestants import sampling, train_step

_RECIPE = flags.DEFINE_string("recipe", "digits", "Network: a recipe in configs/.")
_BATCHES = flags.DEFINE_list("batches", ["8", "16", "32", "64", "128"], "Batches of a train step.")
_STEPS = flags.DEFINE_list("steps", ["25", "50", "100", "200"], "Steps of a trajectory.")
_SAMPLES = flags.DEFINE_integer("samples", 4, "Samples drawn at once.")
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Times that everything is timed; medians are shown.")


def main(_) -> None:
    recipe, dtype = _RECIPE.value, "float32"
    batches = {int(n): train_step(recipe, int(n), dtype) for n in _BATCHES.value}
    print("| batch of a train step | step | images/s | memory |\n| --- | --- | --- | --- |")
    for n, (seconds, facts) in _medians(batches).items():
        print(f"| {n} | {1e3 * seconds:.1f} ms | {n / seconds:.0f} | {_mib(facts)} |")
    drawn = {int(n): sampling(recipe, _SAMPLES.value, dtype, int(n)) for n in _STEPS.value}
    print(f"\n| steps of {_SAMPLES.value} samples | all | a step | memory |")
    print("| --- | --- | --- | --- |")
    for n, (seconds, facts) in _medians(drawn).items():
        print(f"| {n} | {1e3 * seconds:.1f} ms | {1e3 * seconds / n:.3f} ms | {_mib(facts)} |")


def _medians(contestants):
    """Seconds of each, timed in turns, and its facts."""
    seconds = {n: [] for n in contestants}
    for i in range(1 + _ROUNDS.value):
        for n, (_, run) in contestants.items():
            start = time.perf_counter()
            run()
            if i:  # The first round warms up.
                seconds[n].append(time.perf_counter() - start)
    return {n: (statistics.median(seconds[n]), facts) for n, (facts, _) in contestants.items()}


def _mib(facts) -> str:
    return f"{facts['temporary_bytes'] / 2**20:.1f} MiB"


if __name__ == "__main__":
    app.run(main)
