"""From a configuration to all that a run of training needs.

Everything is checked here, on the host, before anything compiles; every complaint is a
UsageError that names the key and its value.
"""

from collections.abc import Sequence

import jax
import ml_collections
import optax

from iddpm_jax import diffusion as dm
from iddpm_jax import distributed
from iddpm_jax.config.build_data import build_standardization, measured, open_data, warn
from iddpm_jax.config.build_diffusion import (
    build_continuous,
    build_diffusion,
    is_continuous,
    with_schedule_digest,
)
from iddpm_jax.config.build_model import build_low_res, build_model, with_fast_convolutions
from iddpm_jax.config.build_sampling import build_preview
from iddpm_jax.config.record import run_identity
from iddpm_jax.data import Source, describe, facts_of, in_memory, make_batches
from iddpm_jax.distributed.mesh import check_batch_size, make_mesh
from iddpm_jax.errors import UsageError
from iddpm_jax.training.loop import LoopOptions, Training, TrainingData
from iddpm_jax.training.objective import ContinuousObjective, DiscreteObjective, Objective
from iddpm_jax.training.optimizer import Optimizer, linear_anneal, make_optimizer
from iddpm_jax.training.step import StepOptions

_LARGEST = 1e30  # What is more would overflow float32 somewhere.


def build_objective(config: ml_collections.ConfigDict) -> Objective:
    """What is minimised: over all steps of the discrete process, or over continuous time.

    Raises:
      UsageError: a key of `diffusion` cannot be used, or not with these data.
    """
    sampler = config.train.schedule_sampler
    if is_continuous(config):
        if sampler != "uniform":
            raise UsageError(
                f"train.schedule_sampler={sampler!r}: in continuous time only 'uniform'"
            )
        return ContinuousObjective(build_continuous(config))
    wrong = [key for key in ("learn_sigma", "use_kl") if config.diffusion[key]]
    if config.data.standardize and wrong:
        raise UsageError(
            f"diffusion.{wrong[0]}=True trains on a bound of 8-bit levels, which are not 2/255 "
            f"apart where data.standardize=True: set diffusion.{wrong[0]}=False, or "
            "data.standardize=False"
        )
    diffusion = build_diffusion(config)
    return DiscreteObjective(diffusion, dm.timestep_sampler(sampler, diffusion.num_timesteps))


def build_learning_rate(config: ml_collections.ConfigDict) -> optax.Schedule:
    """The learning rate as a function of the step."""
    c = config.train
    if not 0 < c.lr < _LARGEST:
        raise UsageError(f"train.lr={c.lr} must be positive and below {_LARGEST}")
    if c.lr_anneal_steps < 0 or 0 < c.lr_anneal_steps < (c.num_steps or 0):
        raise UsageError(
            f"train.lr_anneal_steps={c.lr_anneal_steps} must be 0, or at least "
            f"train.num_steps={c.num_steps}: the learning rate would be 0 before the end"
        )
    return linear_anneal(c.lr, c.lr_anneal_steps)


def build_optimizer(config: ml_collections.ConfigDict) -> Optimizer:
    """AdamW with the averaged parameters in its state, and its learning rate."""
    c = config.train
    for key in ("weight_decay", "grad_clip"):
        if not 0 <= c[key] < _LARGEST:
            raise UsageError(f"train.{key}={c[key]} must be from 0 to {_LARGEST}")
    return make_optimizer(
        build_learning_rate(config),
        weight_decay=c.weight_decay,
        grad_clip=c.grad_clip,
        ema_rates=tuple(c.ema_rate),
    )


def build_step_options(config: ml_collections.ConfigDict) -> StepOptions:
    """How the configuration has steps taken."""
    c = config.train
    return StepOptions(
        seed=c.seed,
        microbatch=c.microbatch,
        label_dropout=c.label_dropout,
        max_nonfinite_steps=c.max_nonfinite_steps,
        data_parallel=c.data_parallel,
        shard_optimizer=c.shard_optimizer,
        low_res=build_low_res(config),
        standardize=build_standardization(config),
    )


def build_training(config: ml_collections.ConfigDict, class_names: Sequence[str] = ()) -> Training:
    """Everything that `training.loop.train` needs.

    `class_names` are those of the run that is continued, if there is one.
    """
    c = config.train
    _check_train(config)
    mesh = make_mesh()
    check_batch_size(c.batch_size, c.microbatch, mesh)
    # What the data are comes first: the network's sizes follow from it. Decoding them comes last.
    source = open_data(config, "", class_names)
    distributed.check_same_everywhere(facts_of(source), "data")
    model = with_fast_convolutions(build_model(config), mesh)
    objective = build_objective(config)
    source = in_memory(source, config.data.cache_mb)
    if jax.process_index() == 0:
        warn(config, source)
    config = with_schedule_digest(measured(config, source))
    preview = build_preview(config, model, source, mesh)
    return Training(
        config=config.to_dict(),
        identity=run_identity(config, source.class_names, source.fingerprint),
        objective=objective,
        model=model,
        optimizer=build_optimizer(config),
        data=_training_data(config, source),
        mesh=mesh,
        step=build_step_options(config),
        loop=LoopOptions(
            num_steps=c.num_steps,
            log_every=c.log_every,
            checkpoint_every=c.checkpoint_every,
            keep_checkpoints=c.keep_checkpoints,
            sample_every=c.sample_every,
        ),
        draw_samples=preview,
    )


def _training_data(config: ml_collections.ConfigDict, source: Source) -> TrainingData:
    batches = make_batches(
        source,
        batch_size=config.train.batch_size,
        seed=config.train.seed,
        random_flip=config.data.random_flip,
        num_workers=config.data.num_workers,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    return TrainingData(
        batches=batches,
        batch_size=config.train.batch_size,
        image_shape=source.image_shape,
        class_names=source.class_names,
        description=describe(source),
    )


def _check_train(config: ml_collections.ConfigDict) -> None:
    c = config.train
    if c.num_steps is None:
        raise UsageError("train.num_steps is not set: say how long to train")
    for key in ("num_steps", "log_every", "checkpoint_every", "keep_checkpoints"):
        if c[key] < 1:
            raise UsageError(f"train.{key}={c[key]} must be at least 1")
    if c.max_nonfinite_steps < 1:
        raise UsageError(f"train.max_nonfinite_steps={c.max_nonfinite_steps} must be at least 1")
    if c.sample_every < 0 or config.data.num_workers < 0:
        raise UsageError(
            f"train.sample_every={c.sample_every} and data.num_workers="
            f"{config.data.num_workers} must not be negative"
        )
    if not 0 <= c.seed < 2**31:
        raise UsageError(f"train.seed={c.seed} must be in [0, 2**31)")
    if c.data_parallel not in ("jit", "pmap"):
        raise UsageError(f"train.data_parallel={c.data_parallel!r}: choose jit or pmap")
    if c.data_parallel == "pmap" and c.shard_optimizer:
        raise UsageError("train.shard_optimizer=True needs train.data_parallel='jit', not 'pmap'")
