"""Peak memory of a train step of the published architectures, from XLA's memory analysis.

    python -m benchmarks.memory --recipes=cifar10_cosine --batches=1,8,64

Compiles the step for abstract arguments, so that nothing of the kind has to be in memory, and
prints a Markdown table as it goes: the state (parameters, AdamW's moments, one average), what a
step needs on top of it, plain and one example at a time, and the activations that are kept for the
way back, plain and with gradient checkpointing. The latter are counted from the traced program,
because XLA undoes checkpointing on CPUs, where it merges what is computed twice.
"""

import json
import time

import jax
import jax.numpy as jnp
from absl import app, flags

from benchmarks.jax_contestants import (
    abstract_examples,
    build_train_step,
    bytes_besides_arguments,
)
from iddpm_jax import models
from iddpm_jax.config.build_model import build_low_res, build_model
from iddpm_jax.config.build_training import build_objective
from iddpm_jax.config.recipes import packaged_recipe
from iddpm_jax.distributed.mesh import make_mesh

_RECIPES = flags.DEFINE_list(
    "recipes",
    [
        "cifar10_cosine",
        "imagenet64_uncond",
        "imagenet64_cond",
        "upsample_64_256",
        "lsun_bedroom_bs128",
    ],
    "Recipes in configs/; the other published ones are of one of these shapes.",
)
_BATCHES = flags.DEFINE_list("batches", ["1", "8", "64"], "Batch sizes.")
_DTYPE = flags.DEFINE_string("dtype", "float32", "Compute dtype.")

_COLUMNS = ("step", "step, microbatch=1", "kept", "kept, use_checkpoint")


def kept_activations(config) -> int:
    """Bytes that one image adds to what the gradient keeps from the way there."""
    model, objective = build_model(config), build_objective(config)
    low_res = build_low_res(config)

    def residuals(params, images, labels):
        def loss(params):
            t, keys = jnp.zeros(len(images), jnp.int32), jax.random.split(jax.random.key(0))
            keys = jax.random.split(keys[0], len(images))
            small = None if low_res is None else low_res(images, keys)

            def model_fn(x_t, timestep):
                return model.apply(
                    {"params": params},
                    x_t,
                    timestep,
                    y=labels,
                    low_res=small,
                    train=True,
                    rngs={"dropout": keys[0]},
                )

            examples = {"image": images, "t": t, "noise": images}
            return objective.losses(model_fn, examples)["loss"].mean()

        return jax.vjp(loss, params)[1]

    def size(batch: int) -> int:
        made = abstract_examples(config, batch)
        arguments = (models.abstract_params(model), made["image"], made.get("label"))
        leaves = jax.tree.leaves(jax.eval_shape(residuals, *arguments))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

    return size(2) - size(1)  # Parameters are among what is kept, too.


def step_memory(config, batch: int, microbatch: int) -> dict[str, float]:
    """Bytes of the state and of what a step needs besides, and the seconds it took to compile."""
    config = config.copy_and_resolve_references()
    config.train.microbatch = microbatch
    # With the convolutions of accelerators, for which this analysis stands in.
    step, _, state = build_train_step(config, build_model(config), make_mesh())
    start = time.perf_counter()
    analysis = step.lower(state, abstract_examples(config, batch)).compile().memory_analysis()
    return {
        "state": analysis.argument_size_in_bytes,
        "step": bytes_besides_arguments(analysis),
        "compile_seconds": time.perf_counter() - start,
    }


def main(_) -> None:
    print(f"| recipe | state | batch | {' | '.join(_COLUMNS)} |")
    print(f"| --- | --- | --- |{' --- |' * len(_COLUMNS)}", flush=True)
    rows = []
    for recipe in _RECIPES.value:
        config = packaged_recipe(recipe)
        config.model.dtype = _DTYPE.value
        kept = []
        for config.model.use_checkpoint in (False, True):
            kept.append(kept_activations(config))
        config.model.use_checkpoint = False
        for batch in map(int, _BATCHES.value):
            whole = step_memory(config, batch, 0)
            single = whole if batch == 1 else step_memory(config, batch, 1)
            shown = [whole["step"], single["step"], *(batch * size for size in kept)]
            rows.append({"recipe": recipe, "batch": batch, "bytes": shown, "whole": whole})
            cells = " | ".join(map(_gib, shown))
            print(f"| {recipe} | {_gib(whole['state'])} | {batch} | {cells} |", flush=True)
    print(json.dumps(rows))


def _gib(count: float) -> str:
    return f"{count / 2**30:.2f} GiB"


if __name__ == "__main__":
    app.run(main)
