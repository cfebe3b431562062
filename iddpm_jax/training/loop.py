"""The training loop: restore, step, log, save, sample."""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from clu import parameter_overview
from jax.sharding import Mesh

from iddpm_jax import diffusion as dm
from iddpm_jax import models
from iddpm_jax.data import BatchIterator
from iddpm_jax.distributed import SharedFlag, Watch, replicate, to_devices
from iddpm_jax.distributed.interrupt import StopRequest
from iddpm_jax.distributed.mesh import on_this_process, replicated, shard_batch
from iddpm_jax.distributed.pmap import split_batch
from iddpm_jax.errors import UsageError, explain_out_of_memory
from iddpm_jax.files.pictures import save_png
from iddpm_jax.training import loss_scale
from iddpm_jax.training import metrics as mt
from iddpm_jax.training.checkpoints import Checkpoints, RunIdentity
from iddpm_jax.training.divergence import Divergence
from iddpm_jax.training.objective import Objective
from iddpm_jax.training.optimizer import Optimizer
from iddpm_jax.training.pace import Pace
from iddpm_jax.training.prefetch import DataError, DeviceBatches
from iddpm_jax.training.progress import Progress
from iddpm_jax.training.state import TrainState
from iddpm_jax.training.step import StepOptions, make_init, make_train_step


class NonFiniteError(UsageError):
    """Training met non-finite losses or gradients too many times in a row."""


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """Images and how they come.

    Attributes:
      batches: of `batch_size` images in all, of which each process has its part.
      image_shape: (H, W, C).
      class_names: names of the classes, or empty.
      description: what the data are, in a line.
    """

    batches: BatchIterator
    batch_size: int
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    description: str


@dataclasses.dataclass(frozen=True)
class LoopOptions:
    """How long training takes, and what is done between which steps.

    Attributes:
      num_steps: the step that ends it.
      log_every: steps for each line of the log.
      checkpoint_every: steps between checkpoints.
      keep_checkpoints: how many of them stay.
      sample_every: steps between pictures of samples; 0: none.
    """

    num_steps: int
    log_every: int
    checkpoint_every: int
    keep_checkpoints: int
    sample_every: int


@dataclasses.dataclass(frozen=True)
class Training:
    """Everything that a run needs, built and checked, with nothing compiled yet.

    Attributes:
      config: what config.json has.
      identity: kept inside every checkpoint.
      draw_samples: parameters, on the devices of this process, to a picture of samples.
    """

    config: dict[str, Any]
    identity: RunIdentity
    objective: Objective
    model: models.TrainableNetwork
    optimizer: Optimizer
    data: TrainingData
    mesh: Mesh
    step: StepOptions
    loop: LoopOptions
    draw_samples: Callable[[Any], np.ndarray]


def train(
    run: Training,
    workdir: pathlib.Path,
    peer_timeout: float = 0,
    *,
    parameter_table: bool = False,
) -> TrainState:
    """Trains in `workdir` until `run.loop.num_steps`, from the latest checkpoint if there is one.

    On SIGTERM or SIGINT the state is saved after the step at hand, and training returns. Of
    several processes every one has to call it; those left end when one is gone, or makes no step
    for `peer_timeout` seconds. With `parameter_table` every parameter is listed at first.

    Raises:
      NonFiniteError: after `run.step.max_nonfinite_steps` skipped steps in a row. The last good
        state is saved.
      CheckpointError: there are checkpoints, and none is sound; or one cannot be written.
      DataChangedError: the images are not those of the checkpoint.
      DataError: images cannot be used, or not be read. The state of the last step is saved.
      UsageError: the memory does not suffice.
    """
    with ExitStack() as stack:
        first_process = jax.process_index() == 0
        progress = Progress(run.loop.num_steps, run.data.batch_size, quiet=not first_process)
        stack.callback(progress.close)
        # Entered before what saves and so left after it: a signal must not end that.
        stop = stack.enter_context(StopRequest(progress.note, workdir / "checkpoints"))
        watch = stack.enter_context(Watch(workdir, peer_timeout))
        checkpoints = Checkpoints(workdir, run.loop.keep_checkpoints, run.identity)
        stack.callback(checkpoints.close)
        stack.enter_context(explain_out_of_memory(_less_memory(run)))
        state = _restore_or_init(run, workdir, checkpoints, progress, parameter_table)
        first_step = int(state.step)
        if first_step >= run.loop.num_steps:
            return state
        writer = mt.MetricWriter(workdir, first_step) if first_process else mt.NoWriter()
        stack.callback(writer.close)
        return _Steps(run, workdir, checkpoints, writer, progress, stop, watch).take(state)


def _restore_or_init(run, workdir, checkpoints, progress, parameter_table: bool) -> TrainState:
    """The newest state, or the first one. Compiles nothing for a run that is complete."""
    init, abstract = make_init(run.objective, run.model, run.optimizer, run.mesh, run.step)
    state = None
    if checkpoints.steps():
        state, data_state = checkpoints.restore_newest(abstract)
        run.data.batches.set_state(data_state)
        step = int(state.step)
        if step >= run.loop.num_steps:
            progress.note(
                f"{workdir} has all of its {step:,} steps; "
                "raise --config.train.num_steps to train on"
            )
            return state
        progress.note(f"continuing after step {step:,} of {checkpoints.directory}")
    progress.note(run.data.description)
    if parameter_table:
        progress.note(
            parameter_overview.get_parameter_overview(abstract.params, include_stats=False)
        )
    count = sum(leaf.size for leaf in jax.tree.leaves(abstract.params))
    progress.note(f"{type(run.model).__name__}: {count:,} parameters")
    return init(dm.stream(run.step.seed, dm.Stream.PARAMETERS)) if state is None else state


def _less_memory(run: Training) -> str:
    """What to change where the memory does not suffice."""
    devices = run.mesh.devices.size
    current = run.step.microbatch or run.data.batch_size
    smaller = [n for n in range(devices, current, devices) if run.data.batch_size % n == 0]
    changes = [f"--config.train.microbatch={smaller[-1]} (it is {current})"] if smaller else []
    if not getattr(run.model, "use_checkpoint", True):
        changes.append("--config.model.use_checkpoint=True")
    if devices > 1 and not run.step.shard_optimizer and run.step.data_parallel == "jit":
        changes.append("--config.train.shard_optimizer=True")
    if not changes:
        return "use a smaller network"
    return f"{', '.join(changes)} or a smaller network needs less"


@dataclasses.dataclass
class _Steps:
    """The loop itself, and what it works with."""

    run: Training
    workdir: pathlib.Path
    checkpoints: Checkpoints
    writer: mt.MetricWriter | mt.NoWriter
    progress: Progress
    stop: StopRequest
    watch: Watch

    def __post_init__(self):
        run = self.run
        names = ("image", "label") if run.model.num_classes else ("image",)
        put = split_batch if run.step.data_parallel == "pmap" else shard_batch
        self.batches = DeviceBatches(run.data.batches, functools.partial(put, run.mesh), names)
        self.divergence = Divergence(run.objective.is_bound)

    def take(self, state: TrainState) -> TrainState:
        """Takes all steps that are left, or those until a signal comes."""
        run, progress = self.run, self.progress
        train_step = make_train_step(run.objective, run.model, run.optimizer, run.mesh, run.step)
        pace = Pace()
        stop_together = SharedFlag(run.mesh)
        first = int(state.step) + 1
        progress.note(f"compiling the train step; files go to {self.workdir}")
        for step in range(first, run.loop.num_steps + 1):
            self.watch.at(step, "training")
            self.stop.step = step
            batch, start = self.batches.take(), time.monotonic()
            state = train_step(state, batch)
            if step == first:
                progress.note(f"compiled in {time.monotonic() - start:.0f} s")
            last = step == run.loop.num_steps
            if not last:
                self._fetch(state, step)
            pace.follow(state.step)
            progress.advance(step)
            self.checkpoints.check()
            stopping = stop_together.ask(self.stop.requested)
            saving = step % run.loop.checkpoint_every == 0 or last or stopping
            logging = step % run.loop.log_every == 0 or last
            # Looking waits for the device, so it is not done at every step. The step itself
            # applies nothing any more once the limit is reached, so none is missed.
            if saving or logging:
                self._check_finite(state)
            if logging:
                state = self._log(state, step)
            if saving:
                with progress.paused():
                    self._save(state)
            if stopping:
                self._stopped(step, last)
                break
            # After saving: of what may go wrong here nothing that was learned depends.
            if run.loop.sample_every and (step % run.loop.sample_every == 0 or last):
                with progress.paused():
                    self._draw(state, step)
        self.checkpoints.wait()
        return state

    def _fetch(self, state: TrainState, step: int) -> None:
        try:
            self.batches.fetch()
        except DataError as error:
            # The others cannot know, and saving takes all of them.
            if jax.process_count() > 1:
                raise
            self._save(state)
            raise DataError(f"{error}; the state after step {step:,} is saved") from error

    def _save(self, state: TrainState) -> None:
        self.watch.at(int(state.step), "saving")
        self.checkpoints.save(state, self.batches.position)

    def _stopped(self, step: int, last: bool) -> None:
        self.checkpoints.wait()
        self.stop.wait_until_answered()
        more = "" if last else "; the same command continues"
        self.progress.note(f"stopped and saved after step {step:,}{more}")

    def _check_finite(self, state: TrainState) -> None:
        limit = self.run.step.max_nonfinite_steps
        scale = state.log2_loss_scale
        if scale is not None and not loss_scale.alive(scale):
            self._save(state)
            raise NonFiniteError(
                f"the loss scale has collapsed to 2^{float(scale):.2f} by step "
                f"{int(state.step):,}: losses or gradients overflow float16, or are "
                "not finite at all, again and again. The parameters are those before that; "
                "train with --config.model.dtype=bfloat16 or float32, in another "
                "--workdir"
            )
        in_row = int(state.skipped_in_row)
        if in_row < limit:
            return
        # The count starts anew if the run is continued.
        self._save(state.replace(skipped_in_row=jnp.zeros_like(state.skipped_in_row)))
        raise NonFiniteError(
            f"loss or gradient was not finite in the last {in_row} steps, up to step "
            f"{int(state.step):,} (train.max_nonfinite_steps={limit}). The parameters are "
            "those before these steps; a lower train.lr, or train.grad_clip=1, helps most often"
        )

    def _log(self, state: TrainState, step: int) -> TrainState:
        """Writes the averages since the last line, and starts new ones."""
        values = mt.compute(state.metrics)
        values["samples"] = step * self.run.data.batch_size
        values["skipped_steps"] = int(state.skipped)
        timing = self.progress.rates(step)
        self.writer.scalars(step, values, timing)
        self.progress.report(step, values, timing)
        warning = self.divergence.warning(step, values)
        if warning is not None:
            self.progress.warn(warning)
        empty = jax.tree.map(np.zeros_like, jax.device_get(state.metrics))
        return state.replace(metrics=to_devices(empty, replicated(self.run.mesh)))

    def _draw(self, state: TrainState, step: int) -> None:
        """Draws samples, on the first process alone: if that fails, the others do not hang."""
        rates = self.run.optimizer.ema_rates
        self.watch.at(step, "sampling")
        # A drawing that ends the process, for want of memory, must not come again and again.
        self.checkpoints.wait()
        decay = str(rates[0]) if rates else "none"
        path = self.workdir / "samples" / f"step_{step:08d}_ema_{decay}.png"
        try:
            params = replicate(self.run.mesh, state.ema[decay] if rates else state.params)
            if jax.process_index():
                return
            grid = self.run.draw_samples(on_this_process(params))
            save_png(path, grid)
            self.writer.image(step, "samples", grid)
        # Whatever it is, a picture is not worth a run.
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            self.progress.warn(f"no samples of step {step:,}: {reason}")
        else:
            self.progress.note(f"samples of step {step:,}: {path}")
