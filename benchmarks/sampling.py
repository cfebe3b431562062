"""Times ancestral sampling against the same network and loop in PyTorch, in turns within one run.

    pip install -r requirements-benchmark.txt
    python -m benchmarks.sampling --recipe=cifar10_cosine --batches=4 --steps=8
    python -m benchmarks.sampling --recipe=digits --batches=1 --steps=50

On a GPU:

    python -m benchmarks.sampling --dtype=bfloat16 --batches=1,64 --steps=50 --rounds=10

The columns are those of `benchmarks.train_step`, for one step of the loop.
"""

from absl import app, flags

from benchmarks.comparison import compare

_STEPS = flags.DEFINE_integer("steps", 8, "Steps of a trajectory.")


def main(_) -> None:
    compare("sampling", passes=1, steps=_STEPS.value)


if __name__ == "__main__":
    app.run(main)
