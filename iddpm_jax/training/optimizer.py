"""The optimiser: AdamW, and the moving averages of the parameters inside its state."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from iddpm_jax.errors import UsageError

Params = Any


class ParamsEmaState(NamedTuple):
    """One averaged copy of the parameters for each decay, under `str(decay)`."""

    ema: dict[str, Params]


def params_ema(decays: Sequence[float]) -> optax.GradientTransformation:
    """Keeps exponential moving averages of the parameters; the updates pass unchanged.

    ema ← decay · ema + (1 - decay) · (params + updates), without bias correction: the
    averages start as the initial parameters (DDPM, section 4). It has to be the last link
    of a chain, where the updates are what will be added to the parameters.

    Raises:
      UsageError: a decay outside [0, 1), or twice the same.
    """
    for decay in decays:
        if not 0 <= decay < 1:
            raise UsageError(f"train.ema_rate={tuple(decays)}: {decay} is not in [0, 1)")
    if len(set(decays)) != len(decays):
        raise UsageError(f"train.ema_rate={tuple(decays)} has the same rate twice")

    def init(params):
        # Copies: the step donates its state, and a buffer can be given away only once.
        return ParamsEmaState({str(decay): jax.tree.map(jnp.array, params) for decay in decays})

    def update(updates, state, params=None):
        if params is None:
            raise UsageError("params_ema needs params: optimizer.update(updates, state, params)")
        new_params = optax.apply_updates(params, updates)
        ema = {
            str(decay): optax.incremental_update(new_params, state.ema[str(decay)], 1 - decay)
            for decay in decays
        }
        return updates, ParamsEmaState(ema)

    return optax.GradientTransformation(init, update)


class Optimizer(NamedTuple):
    """An `optax.GradientTransformation`, and what the log and the pictures say of it.

    init, update: as of optax's.
    learning_rate: the number of updates that were applied to the rate of the next one.
    ema_rates: decays of the averages of `params_ema` in its state; the first is drawn from.
    """

    init: optax.TransformInitFn
    update: optax.TransformUpdateFn
    learning_rate: optax.Schedule
    ema_rates: tuple[float, ...] = ()


def _promoting(transform: optax.GradientTransformation) -> optax.GradientTransformation:
    """`transform`, whatever JAX is set to: optax raises a float to the power of an int32."""

    def update(updates, state, params=None):
        with jax.numpy_dtype_promotion("standard"):
            return transform.update(updates, state, params)

    return optax.GradientTransformation(transform.init, update)


def linear_anneal(lr: float, anneal_steps: int) -> optax.Schedule:
    """lr · (1 - step / anneal_steps), or a constant where anneal_steps is 0."""
    if not anneal_steps:
        return optax.constant_schedule(lr)
    return optax.linear_schedule(lr, 0.0, anneal_steps)


def make_optimizer(
    learning_rate: optax.Schedule,
    *,
    weight_decay: float = 0.0,
    grad_clip: float = 0.0,
    ema_rates: Sequence[float] = (),
) -> Optimizer:
    """AdamW with PyTorch's constants, optional clipping by global norm, and `params_ema`."""
    links = [optax.clip_by_global_norm(grad_clip)] if grad_clip else []
    adamw = optax.adamw(learning_rate, b1=0.9, b2=0.999, eps=1e-8, weight_decay=weight_decay)
    links.append(_promoting(adamw))
    init, update = optax.chain(*links, params_ema(ema_rates))
    return Optimizer(init, update, learning_rate, tuple(ema_rates))


def get_moments(opt_state: optax.OptState) -> tuple[int, Params, Params]:
    """AdamW's number of updates, and its first and second moments."""
    adam = optax.tree.get(opt_state, "ScaleByAdamState")
    return int(adam.count), adam.mu, adam.nu


def get_schedule_count(opt_state: optax.OptState) -> int:
    """The step that the learning rate's schedule has reached."""
    return int(optax.tree.get(opt_state, "count", filtering=_in_schedule))


def set_moments(
    opt_state: optax.OptState, count: int, mu: Params, nu: Params, schedule_count: int
) -> optax.OptState:
    """Replaces AdamW's state, and the step that the learning rate's schedule has reached."""
    adam = optax.ScaleByAdamState(count=np.int32(count), mu=mu, nu=nu)
    opt_state = optax.tree.set(opt_state, ScaleByAdamState=adam)
    return optax.tree.set(opt_state, _in_schedule, count=np.int32(schedule_count))


def _in_schedule(path, value) -> bool:
    del value
    return getattr(path[-1], "tuple_name", "") == "ScaleByScheduleState"
