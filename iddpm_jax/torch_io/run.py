"""A PyTorch run's files as the state of training, and back.

The reference writes `model000003.pt`, one `ema_0.9999_000003.pt` for each average, and
`opt000003.pt`; the number is the step.
"""

import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
import optax

from iddpm_jax import models
from iddpm_jax.config.build_diffusion import build_process, build_timestep_sampler
from iddpm_jax.config.build_model import build_model
from iddpm_jax.config.build_training import build_learning_rate, build_optimizer
from iddpm_jax.config.record import run_identity
from iddpm_jax.distributed.mesh import make_mesh
from iddpm_jax.errors import UsageError
from iddpm_jax.files.atomic import refusing_disk_errors
from iddpm_jax.files.workdir import known_labels, lock
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
from iddpm_jax.training import loss_scale
from iddpm_jax.training.checkpoints import CheckpointError, Checkpoints
from iddpm_jax.training.optimizer import get_moments, get_schedule_count, set_moments
from iddpm_jax.training.state import TrainState
from iddpm_jax.training.step import make_init

_NAME = re.compile(r"(model|opt|ema_(?P<rate>\d+(\.\d+)?)_)(?P<step>\d{6,})\.(pt|safetensors)$")


class FileName(NamedTuple):
    """What a file's name says: None where it says nothing."""

    step: int | None
    ema_rate: str | None  # As `str(float)`, the name under which we keep the average.


def parse_name(path: pathlib.Path) -> FileName:
    match = _NAME.search(path.name)
    if match is None:
        return FileName(None, None)
    rate = match["rate"]
    return FileName(int(match["step"]), rate and str(float(rate)))


def common_step(paths: Sequence[pathlib.Path]) -> int | None:
    """The step that the files' names say; None if none does; UsageError if they disagree."""
    steps = {path.name: parse_name(path).step for path in paths}
    known = {name: step for name, step in steps.items() if step is not None}
    if len(set(known.values())) > 1:
        raise UsageError(
            "the files are of different steps: "
            + ", ".join(f"{name} of {step}" for name, step in known.items())
        )
    return next(iter(known.values()), None)


class TorchRun(NamedTuple):
    """The files of a run, read, in our conventions. Arrays are views where nothing changes."""

    state_dict: Mapping[str, np.ndarray]
    ema: Mapping[str, Mapping]  # Parameter trees by rate.
    moments: Moments | None


def read_run(
    state_dict: Mapping[str, np.ndarray],
    ema: Mapping[str, pathlib.Path],
    optimizer: pathlib.Path | None,
    model: models.UNet,
    conventions: Conventions,
) -> TorchRun:
    """Reads what belongs to the network's weights, checking that it does.

    Args:
      conventions: those of the run, which the result no longer has.

    Raises:
      UsageError: a file that cannot be read or does not fit the network.
    """
    shapes = models.torch_param_shapes(model)
    averages = {}
    for rate, path in ema.items():
        average = read_state_dict(path)
        try:
            average = arrays_from_torch(average, model, conventions)
            averages[rate] = models.params_from_torch(average, model)
        except ValueError as error:
            raise UsageError(f"{path}: {error}") from error
    moments = None
    if optimizer:
        moments = moments_from_torch(read_optimizer(optimizer, shapes), model, conventions)
    return TorchRun(arrays_from_torch(state_dict, model, conventions), averages, moments)


def to_state(run: TorchRun, config, model: models.UNet, step: int) -> TrainState:
    """The state of training after `step` steps, of numpy arrays that are views of the files.

    Averages that no file has start from the weights, and the optimiser starts anew without
    its file, as in the reference.
    """
    params = models.params_from_torch(run.state_dict, model)
    # Counters and running averages begin at 0, as does what the optimiser knows.
    state = jax.tree.map(
        lambda leaf: np.broadcast_to(leaf.dtype.type(0), leaf.shape), abstract_state(config, model)
    )
    rates = [str(rate) for rate in config.train.ema_rate]
    ema = {rate: run.ema.get(rate, params) for rate in rates}
    opt_state = optax.tree.set(state.opt_state, ema=ema)
    count, mu, nu = get_moments(opt_state)
    if run.moments is not None:
        count = run.moments.count
        mu = models.params_from_torch(run.moments.mu, model)
        nu = models.params_from_torch(run.moments.nu, model)
    return state.replace(
        step=np.int32(step),
        params=params,
        opt_state=set_moments(opt_state, count, mu, nu, schedule_count=step),
        sampler_state=jax.device_get(build_timestep_sampler(config).init()),
        log2_loss_scale=jax.device_get(loss_scale.initial(model.dtype)),
    )


def abstract_state(config, model: models.UNet) -> TrainState:
    """Shapes, dtypes and places of the state of training, without what its data needs."""
    _, abstract = make_init(
        build_process(config),
        model,
        build_optimizer(config),
        build_timestep_sampler(config),
        make_mesh(),
    )
    return abstract


def restore(workdir: pathlib.Path, config, model: models.UNet) -> TrainState:
    """The newest sound state of a work directory.

    Raises:
      UsageError: there is no complete checkpoint, or none is sound.
    """
    if not (workdir / "checkpoints").is_dir():
        raise CheckpointError(f"{workdir} has no complete checkpoint; train first")
    run = run_identity(config, known_labels(str(workdir)))
    checkpoints = Checkpoints(workdir, keep=1, run=run, read_only=True)
    return checkpoints.restore_newest(abstract_state(config, model))[0]


def write_run(
    state: TrainState, config, directory: pathlib.Path, conventions: Conventions
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
        return _write_run(state, config, directory, conventions)


def _write_run(
    state: TrainState, config, directory: pathlib.Path, conventions: Conventions
) -> list[pathlib.Path]:
    step = int(state.step)
    files = {directory / f"model{step:06d}.pt": state.params}
    files |= {directory / f"ema_{rate}_{step:06d}.pt": ema for rate, ema in state.ema.items()}
    optimizer_file = directory / f"opt{step:06d}.pt"
    count, mu, nu = get_moments(state.opt_state)
    there = [str(path) for path in (*files, optimizer_file) if path.exists()]
    if there:
        raise UsageError(f"{', '.join(there)} is there already; choose another --out")
    model = build_model(config)
    for path, params in files.items():
        arrays = models.params_to_torch(jax.device_get(params))
        write_state_dict(path, arrays_to_torch(arrays, model, conventions))
    if not count:
        return list(files)
    mu, nu = (models.params_to_torch(jax.device_get(tree)) for tree in (mu, nu))
    # torch keeps the rate of the last update, in float64 where it is constant.
    last = max(get_schedule_count(state.opt_state) - 1, 0)
    annealed = float(build_learning_rate(config)(last))
    lr = annealed if config.train.lr_anneal_steps else config.train.lr
    moments = Moments(count, mu, nu, lr, config.train.weight_decay)
    write_optimizer(optimizer_file, moments_to_torch(moments, model, conventions))
    return [*files, optimizer_file]
