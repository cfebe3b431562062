"""Everything that training carries from step to step."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from iddpm_jax.training.metrics import Metrics, initial_metrics
from iddpm_jax.training.objective import Objective
from iddpm_jax.training.optimizer import Optimizer


class TrainState(flax.struct.PyTreeNode):
    """State of training; a pytree, all of which is checkpointed.

    Attributes:
      step: steps taken, skipped ones included, int32.
      params: the parameters.
      opt_state: the optimiser's state, the averaged parameters inside.
      sampler_state: the timestep sampler's state.
      metrics: running averages since the last line of the log.
      skipped: steps whose gradients were not finite and were not applied, int32.
      skipped_in_row: the latest of them that were consecutive, int32.
      log2_loss_scale: of float16 training, float32; None where nothing is scaled.
    """

    step: jax.Array
    params: Any
    opt_state: optax.OptState
    sampler_state: Any
    metrics: Metrics
    skipped: jax.Array
    skipped_in_row: jax.Array
    log2_loss_scale: jax.Array | None = None

    @property
    def ema(self) -> dict[str, Any]:
        """The averaged parameters, by `str(decay)`."""
        return optax.tree.get(self.opt_state, "ema")


def init_state(
    params: Any,
    objective: Objective,
    optimizer: Optimizer,
    log2_loss_scale: jax.Array | None = None,
) -> TrainState:
    """The state before the first step."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        sampler_state=objective.timestep_sampler.init(),
        metrics=initial_metrics(objective, log2_loss_scale is not None),
        skipped=jnp.zeros((), jnp.int32),
        skipped_in_row=jnp.zeros((), jnp.int32),
        log2_loss_scale=log2_loss_scale,
    )
