"""Our train step and sampling loop, compiled and ready to be timed, and the machine's peak."""

import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import flops
from iddpm_jax import diffusion as dm
from iddpm_jax import models
from iddpm_jax.config.build_diffusion import build_diffusion
from iddpm_jax.config.build_model import build_low_res, build_model, with_fast_convolutions
from iddpm_jax.config.build_training import build_objective, build_optimizer
from iddpm_jax.config.recipes import packaged_recipe
from iddpm_jax.distributed.mesh import batch_sharding, make_mesh, replicated, shard_batch
from iddpm_jax.training.step import StepOptions, make_init, make_train_step


def abstract_examples(config, batch: int, sharding=None) -> dict[str, jax.ShapeDtypeStruct]:
    """A batch of images in the abstract, with labels where the network has classes."""
    c = config.model
    shape = (batch, c.image_size, c.image_size, c.in_channels)
    made = {"image": jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)}
    if c.num_classes:
        made["label"] = jax.ShapeDtypeStruct((batch,), jnp.int32, sharding=sharding)
    return made


def examples(config, batch: int) -> dict[str, np.ndarray]:
    """That batch of random images."""
    abstract, random = abstract_examples(config, batch), np.random.default_rng(0)
    made = {"image": random.uniform(-1, 1, abstract["image"].shape).astype(np.float32)}
    if "label" in abstract:
        made["label"] = random.integers(0, config.model.num_classes, batch).astype(np.int32)
    return made


def bytes_besides_arguments(memory) -> int:
    """What a program needs besides its arguments, by its `memory_analysis`."""
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return memory.temp_size_in_bytes + results


def build_train_step(config, model, mesh):
    """A recipe's jitted step, the jitted start of its state, and that state in the abstract."""
    parts = (build_objective(config), model, build_optimizer(config), mesh)
    options = StepOptions(
        microbatch=config.train.microbatch,
        shard_optimizer=config.train.shard_optimizer,
        low_res=build_low_res(config),
    )
    step = make_train_step(*parts, options)
    init, abstract = make_init(*parts, options)
    return step, init, abstract


def train_step(recipe: str, batch: int, dtype: str, devices: int = 1):
    """One optimisation step, the state given away and taken back."""
    config = packaged_recipe(recipe)
    config.model.dtype = dtype
    mesh = make_mesh(jax.devices()[:devices])
    model = with_fast_convolutions(build_model(config), mesh)
    step, init, _ = build_train_step(config, model, mesh)
    state = init(jax.random.key(0))
    data = shard_batch(mesh, examples(config, batch))
    compiled, facts = _compile(step, state, data)
    facts["parameters"] = sum(leaf.size for leaf in jax.tree.leaves(state.params))

    def run():
        nonlocal state
        state = jax.block_until_ready(compiled(state, data))

    return facts, run


def sampling(recipe: str, batch: int, dtype: str, steps: int):
    """`steps` ancestral steps from noise, as one program."""
    config = packaged_recipe(recipe)
    config.model.dtype = dtype
    return trajectory(config, batch, f"exact{steps}")


def trajectory(config, batch: int, respacing: str):
    """All ancestral steps of a respaced process, from noise and as one program."""
    d = build_diffusion(config, respacing)
    model = with_fast_convolutions(build_model(config), make_mesh(jax.devices()[:1]))
    # Any finite numbers do, and these need no compilation.
    params = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.01), models.abstract_params(model))
    made = examples(config, batch)

    @jax.jit
    def draw(params, labels, x_T, key):  # noqa: N803
        def model_fn(x_t, timestep):
            return model.apply({"params": params}, x_t, timestep, y=labels)

        return dm.sample_loop(d, model_fn, x_T, key)

    arguments = (params, made.get("label"), made["image"], jax.random.key(0))
    compiled, facts = _compile(draw, *arguments)
    facts["parameters"] = sum(leaf.size for leaf in jax.tree.leaves(params))
    facts["timesteps"] = d.num_timesteps
    return facts, lambda: jax.block_until_ready(compiled(*arguments))


def sampling_step(config, model, mesh):
    """One ancestral step of a batch that is cut over the devices, and its abstract arguments."""
    d, cut, whole = build_diffusion(config), batch_sharding(mesh), replicated(mesh)
    batch = abstract_examples(config, config.train.batch_size, cut)

    @jax.jit
    def step(params, labels, x_t, t, key):
        def model_fn(x_t, timestep):
            return model.apply({"params": params}, x_t, timestep, y=labels)

        return dm.ddpm_step(d, model_fn, x_t, t, jax.random.normal(key, x_t.shape))[0]

    params = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole),
        models.abstract_params(model),
    )
    t = jax.ShapeDtypeStruct(batch["image"].shape[:1], jnp.int32, sharding=cut)
    key = jax.eval_shape(lambda: jax.random.key(0))
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=whole)
    return step, (params, batch.get("label"), batch["image"], t, key)


def matrix_product(dtype: str):
    """A product of large square matrices, the most arithmetic that the machine is seen to do."""
    size = 2048 if jax.default_backend() == "cpu" else 8192
    a = jnp.ones((size, size), dtype)
    product = jax.jit(lambda a, b: a @ b).lower(a, a).compile()
    return {"flops": 2 * size**3}, lambda: jax.block_until_ready(product(a, a))


def _compile(function, *arguments):
    start = time.perf_counter()
    compiled = function.lower(*arguments).compile()
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    facts = {
        "compile_seconds": seconds,
        "flops_of_program": flops.in_program(compiled.as_text()),
        "temporary_bytes": memory.temp_size_in_bytes,
    }
    if jax.default_backend() != "cpu":
        facts["device_bytes"] = memory.argument_size_in_bytes + bytes_besides_arguments(memory)
    return compiled, facts
