"""The smallest training that has every part, built once and shared by tests."""

import contextlib
import dataclasses
import functools
from typing import Any

import jax
import ml_collections
import numpy as np
import pytest

from iddpm_jax import models
from iddpm_jax.config.build_training import build_training
from iddpm_jax.distributed.mesh import make_mesh, shard_batch
from iddpm_jax.distributed.pmap import split_batch
from iddpm_jax.recipes import digits
from iddpm_jax.training import loop
from iddpm_jax.training.identity import RunIdentity
from iddpm_jax.training.loop import LoopOptions, Training
from iddpm_jax.training.step import StepOptions, make_init, make_train_step

BATCH = 16
RUN = RunIdentity({})  # Of checkpoints for which it does not matter whose they are.


def config() -> ml_collections.ConfigDict:
    """Digits with a network of one resolution and ten diffusion steps."""
    config = digits.get_config()
    # Two channels a group: with one, biases before a norm have no gradient but rounding, which
    # Adam enlarges to full steps, and runs that should be equal drift apart.
    config.model.num_channels = 64
    config.model.num_res_blocks = 1
    config.model.channel_mult = (1,)
    config.model.attention_resolutions = ()
    config.model.dropout = 0.0
    config.diffusion.steps = 10
    config.train.batch_size = BATCH
    config.train.num_steps = 4
    config.train.lr = 1e-4
    config.train.ema_rate = (0.5, 0.9)
    config.train.sample_respacing = "ddim5"
    config.train.num_samples = 20
    return config


@functools.cache
def training():
    """A built run of the tiny configuration."""
    return build_training(config())


# What changes nothing in the program of a step.
_OF_THE_LOOP = [field.name for field in dataclasses.fields(LoopOptions)]
_built: dict[str, Training] = {}
_made: dict[tuple, Any] = {}


def run_of(config: ml_collections.ConfigDict) -> Training:
    """A built run, which shares what its programs are made of with others that have the same."""
    run, same = build_training(config), config.copy_and_resolve_references()
    with same.unlocked():
        for key in _OF_THE_LOOP:
            del same.train[key]
    first = _built.setdefault(same.to_json_best_effort(sort_keys=True), run)
    parts = {name: getattr(first, name) for name in ("objective", "model", "optimizer", "mesh")}
    return dataclasses.replace(run, **parts, step=first.step)


def share_programs(monkeypatch) -> None:
    """Lets loops of runs of the same parts use one program, compiled once."""

    def once(make):
        def made_before(*parts):
            key = (make, *map(id, parts))
            if key not in _made:
                _made[key] = parts, make(*parts)  # The parts stay, so that no other gets an id.
            return _made[key][1]

        return made_before

    for make in (make_init, make_train_step):
        monkeypatch.setattr(loop, make.__name__, once(make))


@contextlib.contextmanager
def optimised():
    """Has XLA optimise what is jitted: convolutions in loops are 20 times as fast then."""
    with pytest.MonkeyPatch.context() as patch:
        options = {"xla_backend_optimization_level": 3}
        patch.setattr(jax, "jit", functools.partial(jax.jit, compiler_options=options))
        yield


def mesh(devices: int):
    return make_mesh(jax.devices()[:devices])


def random_params(model, scale: float, seed: int):
    """Normal parameters: some layers start at zero, and would hide what comes before them."""
    leaves, structure = jax.tree.flatten(models.abstract_params(model))
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    values = [
        scale * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, values)


def train_step(
    devices: int,
    microbatch: int = 0,
    max_nonfinite_steps: int = 100,
    data_parallel: str = "jit",
    shard_optimizer: bool = False,
):
    """The jitted step; one function, and one compilation, for each set of arguments."""
    return _train_step(devices, microbatch, max_nonfinite_steps, data_parallel, shard_optimizer)


@functools.cache
def _train_step(devices, microbatch, max_nonfinite_steps, data_parallel, shard_optimizer):
    run = training()
    options = StepOptions(
        microbatch=microbatch,
        max_nonfinite_steps=max_nonfinite_steps,
        data_parallel=data_parallel,
        shard_optimizer=shard_optimizer,
    )
    with optimised():  # It takes many steps.
        return make_train_step(run.objective, run.model, run.optimizer, mesh(devices), options)


def init(devices: int, shard_optimizer: bool = False):
    return _init(devices, shard_optimizer)[0]


def abstract_state(devices: int, shard_optimizer: bool = False):
    return _init(devices, shard_optimizer)[1]


@functools.cache
def _init(devices: int, shard_optimizer: bool):
    run, options = training(), StepOptions(shard_optimizer=shard_optimizer)
    return make_init(run.objective, run.model, run.optimizer, mesh(devices), options)


def batch(step: int, devices: int, data_parallel: str = "jit") -> dict[str, jax.Array]:
    """A batch that depends on `step` alone."""
    random = np.random.default_rng(step)
    put = split_batch if data_parallel == "pmap" else shard_batch
    return put(
        mesh(devices),
        {
            "image": random.uniform(-1, 1, (BATCH, 8, 8, 1)).astype(np.float32),
            "label": random.integers(0, 10, BATCH).astype(np.int32),
        },
    )


def run_steps(
    count: int,
    devices: int = 1,
    microbatch: int = 0,
    data_parallel: str = "jit",
    shard_optimizer: bool = False,
):
    """The state after `count` steps."""
    state = init(devices, shard_optimizer)(jax.random.key(0))
    step = train_step(
        devices, microbatch, data_parallel=data_parallel, shard_optimizer=shard_optimizer
    )
    for number in range(count):
        state = step(state, batch(number, devices, data_parallel))
    return state


@contextlib.contextmanager
def compilations():
    """A list of the seconds of every compilation, as they happen."""
    seen = []

    def listen(event: str, seconds: float, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
