"""Times the small MNIST model: an epoch, a sampling step at batch 1, and compiling, each by itself.

    python -m benchmarks.mnist14

An implementation of this model in numpy took 14 minutes for an epoch of 5,120 images in batches of
512, and 25 ms for a sampling step at batch 1. The shapes are the same here, the images random.
"""

import json
import statistics
import time

import jax
from absl import app, flags

from benchmarks.jax_contestants import build_train_step, examples, trajectory
from iddpm_jax.config.build_model import build_model, with_fast_convolutions
from iddpm_jax.distributed.mesh import make_mesh, shard_batch
from iddpm_jax.recipes import mnist14

_EPOCH_STEPS = 10
_REPEATS = flags.DEFINE_integer("repeats", 3, "Epochs, and trajectories; medians are shown.")
_NUMPY = {"epoch_seconds": 14 * 60, "ms_per_sampling_step": 25}


def time_training(config, repeats: int) -> dict[str, float]:
    """Seconds to compile the step, and the median of an epoch's."""
    mesh = make_mesh()
    model = with_fast_convolutions(build_model(config), mesh)
    step, init, _ = build_train_step(config, model, mesh)
    state = jax.block_until_ready(init(jax.random.key(0)))
    batch = shard_batch(mesh, examples(config, config.train.batch_size))
    start = time.perf_counter()
    compiled = step.lower(state, batch).compile()
    compile_seconds = time.perf_counter() - start
    epochs = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        for _ in range(_EPOCH_STEPS):
            state = compiled(state, batch)
        jax.block_until_ready(state)
        epochs.append(time.perf_counter() - start)
    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "train_compile_seconds": compile_seconds,
        "epoch_seconds": statistics.median(epochs[1:]),  # The first one warms up.
    }


def time_sampling(config, repeats: int) -> dict[str, float]:
    """Seconds to compile a trajectory of one sample, and the median of a step in ms."""
    facts, run = trajectory(config, 1, "linspace800")
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return {
        "sample_compile_seconds": facts["compile_seconds"],
        "ms_per_sampling_step": 1000 * statistics.median(seconds[1:]) / facts["timesteps"],
    }


def main(_) -> None:
    config = mnist14.get_config()
    result = time_training(config, _REPEATS.value) | time_sampling(config, _REPEATS.value)
    print("| | here | numpy |\n| --- | --- | --- |")
    for key, value in result.items():
        print(f"| {key} | {value:,.3g} | {_NUMPY.get(key, '')} |")
    print(json.dumps(result))


if __name__ == "__main__":
    app.run(main)
