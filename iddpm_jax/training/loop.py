"""The training loop: restore, step, log, sample, save."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu import parameter_overview
from jax.sharding import Mesh

from iddpm_jax import diffusion as dm
from iddpm_jax.data import BatchIterator
from iddpm_jax.errors import UsageError
from iddpm_jax.evaluation.grids import save_png
from iddpm_jax.processes import SharedFlag, Watch, everywhere, place
from iddpm_jax.training import loss_scale, sharding
from iddpm_jax.training import metrics as mt
from iddpm_jax.training.checkpoints import Checkpoints
from iddpm_jax.training.interrupt import StopRequest
from iddpm_jax.training.prefetch import DataError, DeviceBatches
from iddpm_jax.training.progress import Progress
from iddpm_jax.training.state import TrainState
from iddpm_jax.training.step import make_init, make_train_step


class NonFiniteError(UsageError):
    """Training met non-finite losses or gradients too many times in a row."""


@dataclasses.dataclass(frozen=True)
class Training:
    """Everything that a run needs, built and checked, with nothing compiled yet."""

    config: dict[str, Any]  # Kept inside every checkpoint.
    diffusion: dm.GaussianDiffusion | dm.ContinuousDiffusion
    model: nn.Module
    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule
    timestep_sampler: dm.TimestepSampler
    low_res: Callable[[jax.Array, jax.Array], jax.Array] | None  # As `make_train_step` takes it.
    standardize: Callable[[jax.Array], jax.Array]  # Images in [-1, 1] to what is learned.
    batches: BatchIterator
    mesh: Mesh
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    found: str  # What the data are, in a line.
    draw_samples: Callable[[Any], np.ndarray]  # Averaged parameters to a picture.
    ema_rates: tuple[float, ...]
    num_steps: int
    batch_size: int
    microbatch: int
    seed: int
    label_dropout: float
    log_every: int
    checkpoint_every: int
    keep_checkpoints: int
    sample_every: int
    max_nonfinite_steps: int
    data_parallel: str
    shard_optimizer: bool


def train(run: Training, workdir: pathlib.Path, peer_timeout: float = 0) -> TrainState:
    """Trains in `workdir` until `run.num_steps`, from the latest checkpoint if there is one.

    On SIGTERM or SIGINT the state is saved after the step at hand, and training returns. Of
    several processes every one has to call it; those left end when one is gone, or makes no step
    for `peer_timeout` seconds.

    Raises:
      NonFiniteError: after `run.max_nonfinite_steps` skipped steps in a row. The last good
        state is saved.
      CheckpointError: there are checkpoints, and none is sound.
      DataError: images cannot be used. The state of the last step is saved.
    """
    with ExitStack() as stack:
        # Entered first and so left last: a signal must not end what is being saved.
        stop = stack.enter_context(StopRequest())
        watch = stack.enter_context(Watch(workdir, peer_timeout))
        checkpoints = Checkpoints(workdir, run.keep_checkpoints)
        stack.callback(checkpoints.close)
        state = _restore_or_init(run, checkpoints)
        first_step = int(state.step)
        first_process = jax.process_index() == 0
        if first_process:
            print(parameter_overview.get_parameter_overview(state.params, include_stats=False))
        progress = Progress(first_step, run.num_steps, run.batch_size, quiet=not first_process)
        stack.callback(progress.close)
        if first_step:
            progress.note(f"continuing after step {first_step:,} of {checkpoints.directory}")
        if first_step >= run.num_steps:
            progress.note(
                f"{workdir} has all of its {first_step:,} steps; "
                "raise --config.train.num_steps to train on"
            )
            return state
        writer = mt.MetricWriter(workdir, first_step) if first_process else mt.NoWriter()
        stack.callback(writer.close)
        return _run_steps(run, workdir, state, checkpoints, writer, progress, stop, watch)


def _restore_or_init(run: Training, checkpoints: Checkpoints) -> TrainState:
    parts = (run.diffusion, run.model, run.optimizer, run.timestep_sampler, run.mesh)
    init, abstract = make_init(*parts, run.shard_optimizer)
    if not checkpoints.steps():
        return init(dm.stream(run.seed, dm.Stream.PARAMETERS))
    state, data_state = checkpoints.restore_newest(abstract)
    run.batches.set_state(data_state)
    return state


def _run_steps(run, workdir, state, checkpoints, writer, progress, stop, watch) -> TrainState:
    train_step = make_train_step(
        run.diffusion,
        run.model,
        run.optimizer,
        run.timestep_sampler,
        run.learning_rate,
        run.mesh,
        seed=run.seed,
        microbatch=run.microbatch,
        label_dropout=run.label_dropout,
        max_nonfinite_steps=run.max_nonfinite_steps,
        data_parallel=run.data_parallel,
        low_res=run.low_res,
        standardize=run.standardize,
        state_sharding=jax.tree.map(lambda leaf: leaf.sharding, state),
    )

    names = ("image", "label") if run.model.num_classes else ("image",)
    put = sharding.split_batch if run.data_parallel == "pmap" else sharding.shard_batch
    batches = DeviceBatches(run.batches, functools.partial(put, run.mesh), names)
    stop_together = SharedFlag(run.mesh)

    def save(state: TrainState) -> None:
        watch.at(int(state.step), "saving")
        checkpoints.save(state, batches.position, run.config)

    progress.note(f"compiling the train step; files go to {workdir}")
    for step in range(int(state.step) + 1, run.num_steps + 1):
        watch.at(step, "training")
        state = train_step(state, batches.take())
        last = step == run.num_steps
        if not last:
            try:
                batches.fetch()
            except DataError:
                # The others cannot know, and saving takes all of them.
                if jax.process_count() == 1:
                    save(state)
                raise
        progress.advance(step)
        stopping = stop_together.ask(stop.requested)
        # Looking at the counter waits for the device, so it is not done at every step. The step
        # itself applies nothing any more once the limit is reached, so none is missed.
        if step % run.max_nonfinite_steps == 0 or step % run.log_every == 0 or last:
            _check_finite(run, state, save)
        if step % run.log_every == 0 or last:
            state = _log(run, state, step, writer, progress)
        if run.sample_every and (step % run.sample_every == 0 or last):
            watch.at(step, "sampling")
            with progress.paused():
                _sample(run, workdir, state, step, writer, progress)
        if step % run.checkpoint_every == 0 or last or stopping:
            with progress.paused():
                save(state)
        if stopping and not last:
            progress.note(f"stopped and saved after step {step:,}; the same command continues")
            break
    return state


def _check_finite(run: Training, state: TrainState, save: Callable) -> None:
    if not loss_scale.alive(state.log2_loss_scale):
        save(state)
        raise NonFiniteError(
            f"the loss scale has collapsed to 2^{float(state.log2_loss_scale):.2f} by step "
            f"{int(state.step):,}: losses or gradients overflow float16, or are "
            "not finite at all, again and again. The parameters are those before that; "
            "train with --config.model.dtype=bfloat16 or float32, in another "
            "--workdir"
        )
    in_row = int(state.skipped_in_row)
    if in_row < run.max_nonfinite_steps:
        return
    # The count starts anew if the run is continued.
    save(state.replace(skipped_in_row=jnp.zeros_like(state.skipped_in_row)))
    raise NonFiniteError(
        f"loss or gradient was not finite in the last {in_row} steps, up to step "
        f"{int(state.step):,} (train.max_nonfinite_steps={run.max_nonfinite_steps}). The "
        "parameters are those before these steps; a lower train.lr, or train.grad_clip=1, helps "
        "most often"
    )


def _log(run: Training, state: TrainState, step: int, writer, progress) -> TrainState:
    """Writes the averages since the last line, and starts new ones."""
    values = mt.compute(state.metrics)
    values["samples"] = step * run.batch_size
    values["skipped_steps"] = int(state.skipped)
    timing = progress.rates(step)
    writer.scalars(step, values, timing)
    progress.report(step, values, timing)
    empty = jax.tree.map(np.zeros_like, jax.device_get(state.metrics))
    return state.replace(metrics=place(empty, sharding.replicated(run.mesh)))


def _sample(run: Training, workdir: pathlib.Path, state: TrainState, step, writer, progress):
    decay = str(run.ema_rates[0]) if run.ema_rates else "none"
    params = state.ema[decay] if run.ema_rates else state.params
    grid = run.draw_samples(everywhere(run.mesh, params))
    path = workdir / "samples" / f"step_{step:08d}_ema_{decay}.png"
    if jax.process_index() == 0:
        save_png(path, grid)
    writer.image(step, "samples", grid)
    progress.note(f"samples of step {step:,}: {path}")
