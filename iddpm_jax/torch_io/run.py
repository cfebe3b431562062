"""A PyTorch run's files as the state of training, and back."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from iddpm_jax import models
from iddpm_jax.errors import UsageError
from iddpm_jax.files.atomic import refusing_disk_errors
from iddpm_jax.files.lock import lock
from iddpm_jax.torch_io.conventions import (
    Conventions,
    arrays_from_torch,
    arrays_to_torch,
    moments_from_torch,
    moments_to_torch,
)
from iddpm_jax.torch_io.files import (
    Moments,
    read_optimizer,
    read_state_dict,
    write_optimizer,
    write_state_dict,
)
from iddpm_jax.torch_io.run_files import RunFiles
from iddpm_jax.training import loss_scale
from iddpm_jax.training.optimizer import get_moments, get_schedule_count, set_moments
from iddpm_jax.training.state import TrainState


class TorchRun(NamedTuple):
    """A run that was read, in our conventions. Arrays are views of its files where they can be."""

    params: Any
    ema: Mapping[str, Any]  # Parameters by rate.
    moments: Moments | None


def read_run(
    files: RunFiles,
    state_dict: Mapping[str, np.ndarray],
    model: models.UNet,
    conventions: Conventions,
) -> TorchRun:
    """Reads what belongs to the network's weights, checking that it does.

    Args:
      state_dict: what `files.checkpoint` holds.
      conventions: those of the run, which the result no longer has.

    Raises:
      UsageError: a file cannot be read or does not fit the network.
    """
    averages = {}
    for rate, path in files.ema.items():
        average = read_state_dict(path)
        try:
            averages[rate] = _params(average, model, conventions)
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from error
    moments = None
    if files.optimizer is not None:
        moments = read_optimizer(files.optimizer, models.torch_param_shapes(model))
        moments = moments_from_torch(moments, model, conventions)
    return TorchRun(_params(state_dict, model, conventions), averages, moments)


def _params(arrays: Mapping[str, np.ndarray], model: models.UNet, conventions: Conventions) -> Any:
    return models.params_from_torch(arrays_from_torch(arrays, model, conventions), model)


def to_state(
    run: TorchRun, model: models.UNet, step: int, abstract: TrainState, sampler_state: Any
) -> TrainState:
    """The state of training after `step` steps, of numpy arrays that are views of the files.

    Averages that no file has start from the weights, and the optimiser starts anew without
    its file, as in the reference.

    Args:
      abstract: shapes and dtypes of the state.
      sampler_state: the timestep sampler's, before the first step.
    """
    # Counters and running averages begin at 0, as does what the optimiser knows.
    state = jax.tree.map(lambda leaf: np.broadcast_to(leaf.dtype.type(0), leaf.shape), abstract)
    ema = {rate: run.ema.get(rate, run.params) for rate in abstract.ema}
    opt_state = optax.tree.set(state.opt_state, ema=ema)
    count, mu, nu = get_moments(opt_state)
    if run.moments is not None:
        count = run.moments.count
        mu = models.params_from_torch(run.moments.mu, model)
        nu = models.params_from_torch(run.moments.nu, model)
    return state.replace(
        step=np.int32(step),
        params=run.params,
        opt_state=set_moments(opt_state, count, mu, nu, schedule_count=step),
        sampler_state=jax.device_get(sampler_state),
        log2_loss_scale=jax.device_get(loss_scale.initial(model.dtype)),
    )


class AdamWOptions(NamedTuple):
    """What AdamW's updates depend on, as the file of its state records it.

    Attributes:
      learning_rate: of an update, by how many there were before it.
    """

    learning_rate: Callable[[int], float]
    weight_decay: float


def write_run(
    state: TrainState,
    model: models.UNet,
    options: AdamWOptions,
    directory: pathlib.Path,
    conventions: Conventions,
) -> list[pathlib.Path]:
    """Writes a state under the reference's names, and returns the files.

    Without a single update of the optimiser it has no state, and no file.

    Args:
      conventions: those of the run that is to go on with the files.

    Raises:
      UsageError: one of the files is there already, or another process is writing the directory.
    """
    with refusing_disk_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
    with lock(directory):
        return _write_run(state, model, options, directory, conventions)


def _write_run(
    state: TrainState,
    model: models.UNet,
    options: AdamWOptions,
    directory: pathlib.Path,
    conventions: Conventions,
) -> list[pathlib.Path]:
    step = int(state.step)
    files = {directory / f"model{step:06d}.pt": state.params}
    files |= {directory / f"ema_{rate}_{step:06d}.pt": ema for rate, ema in state.ema.items()}
    optimizer_file = directory / f"opt{step:06d}.pt"
    existing = [str(path) for path in (*files, optimizer_file) if path.exists()]
    if existing:
        raise UsageError(f"{', '.join(existing)} is there already; choose another --out")
    for path, params in files.items():
        arrays = models.params_to_torch(jax.device_get(params))
        write_state_dict(path, arrays_to_torch(arrays, model, conventions))
    count, *trees = get_moments(state.opt_state)
    if not count:
        return list(files)
    mu, nu = (models.params_to_torch(jax.device_get(tree)) for tree in trees)
    # torch keeps the rate of the last update.
    last = max(get_schedule_count(state.opt_state) - 1, 0)
    moments = Moments(count, mu, nu, options.learning_rate(last), options.weight_decay)
    write_optimizer(optimizer_file, moments_to_torch(moments, model, conventions))
    return [*files, optimizer_file]
