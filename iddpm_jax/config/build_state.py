"""From a configuration to the state of training that its checkpoints hold."""

import pathlib

import ml_collections

from iddpm_jax.config.build_model import build_model
from iddpm_jax.config.build_training import build_objective, build_optimizer
from iddpm_jax.config.record import run_identity
from iddpm_jax.distributed.mesh import make_mesh
from iddpm_jax.files.workdir import known_labels
from iddpm_jax.training.checkpoints import CheckpointError, Checkpoints
from iddpm_jax.training.state import TrainState
from iddpm_jax.training.step import make_init


def build_abstract_state(config: ml_collections.ConfigDict) -> TrainState:
    """Shapes, dtypes and shardings of the state of training; its data are not needed."""
    objective, optimizer = build_objective(config), build_optimizer(config)
    return make_init(objective, build_model(config), optimizer, make_mesh())[1]


def restore_state(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> TrainState:
    """The newest sound state of a work directory, whose configuration this is.

    Raises:
      UsageError: there is no complete checkpoint, or none is sound.
    """
    if not (workdir / "checkpoints").is_dir():
        raise CheckpointError(f"{workdir} has no complete checkpoint; train first")
    run = run_identity(config, known_labels(workdir))
    checkpoints = Checkpoints(workdir, keep=1, run=run, read_only=True)
    return checkpoints.restore_newest(build_abstract_state(config))[0]
