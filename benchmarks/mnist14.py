"""Times the small MNIST model: an epoch, a sampling step at batch 1, and compiling, each by itself.

    python -m benchmarks.mnist14

An implementation of this model in numpy took 14 minutes for an epoch of 5,120 images in batches of
512, and 25 ms for a sampling step at batch 1. The shapes are the same here, the images random.
"""

import json
import statistics
import time

import jax
import numpy as np
from absl import app, flags

from benchmarks.jax_contestants import build_train_step, examples
from configs import mnist14
from iddpm_jax import diffusion as dm
from iddpm_jax import factory
from iddpm_jax.training import sharding

_EPOCH_STEPS = 10
_REPEATS = flags.DEFINE_integer("repeats", 3, "Epochs, and trajectories; medians are shown.")
_NUMPY = {"epoch_seconds": 14 * 60, "ms_per_sampling_step": 25}


def time_training(config, repeats: int) -> dict[str, float]:
    """Seconds to compile the step, and the median of an epoch's."""
    mesh = sharding.make_mesh()
    step, init, _ = build_train_step(config, factory.build_model(config), mesh)
    state = jax.block_until_ready(init(jax.random.key(0)))
    batch = sharding.shard_batch(mesh, examples(config, config.train.batch_size))
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
    d, model = factory.build_diffusion(config, "linspace800"), factory.build_model(config)
    params = model.init_params(jax.random.key(0))
    shape = (1, config.model.image_size, config.model.image_size, 1)

    @jax.jit
    def draw(params, labels, x_T, key):  # noqa: N803
        def model_fn(x_t, timestep):
            return model.apply({"params": params}, x_t, timestep, y=labels)

        return dm.sample_loop(d, model_fn, x_T, key)

    key = jax.random.key(0)
    arguments = (params, np.zeros(1, np.int32), jax.random.normal(key, shape), key)
    start = time.perf_counter()
    compiled = draw.lower(*arguments).compile()
    compile_seconds = time.perf_counter() - start
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*arguments))
        seconds.append(time.perf_counter() - start)
    return {
        "sample_compile_seconds": compile_seconds,
        "ms_per_sampling_step": 1000 * statistics.median(seconds[1:]) / d.num_timesteps,
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
