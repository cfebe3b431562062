"""Times a train step against the same network in PyTorch, in turns within one run.

    pip install -r requirements-benchmark.txt
    python -m benchmarks.train_step --recipe=cifar10_cosine --batches=4,16

On a GPU:

    python -m benchmarks.train_step --dtype=bfloat16 --batches=128 --rounds=20
    python -m benchmarks.train_step --dtype=bfloat16 --recipe=imagenet64_uncond --batches=64

Everyone does a forward and a backward pass, AdamW and the average of the parameters. FLOP/s are
those of the network's definition, whatever it is computed by; the peak is that of a matrix product
in the same run. "ours is" says by what factor we are faster than the row.
"""

from absl import app, flags

from benchmarks.comparison import compare

_DEVICES = flags.DEFINE_integer("devices", 1, "Devices that ours takes; the batch is spread.")


def main(_) -> None:
    compare("train_step", passes=3, devices=_DEVICES.value)


if __name__ == "__main__":
    app.run(main)
