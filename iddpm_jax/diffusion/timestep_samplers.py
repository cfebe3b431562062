"""How training draws its timesteps: pure (init, sample, update) over a pytree.

The state lives in the train state, so it is sharded, checkpointed and restored with it.
Axis letters: B batch, T diffusion steps.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, Shaped

from iddpm_jax.diffusion.shapes import PerImage, PerStep, Steps
from iddpm_jax.errors import UsageError

# Timesteps of a batch; in continuous time, times.
Times = Steps | PerImage


class InitFn(Protocol):
    """The `init` of a timestep sampler."""

    def __call__(self) -> Any:
        """Returns the state before the first step: a pytree of arrays, maybe an empty one."""


class SampleFn(Protocol):
    """The `sample` of a timestep sampler."""

    def __call__(self, state: Any, key: Key[Array, ""], batch: int) -> tuple[Times, PerImage]:
        """Draws the timesteps of a batch.

        Args:
          state: what `init` or the latest `update` returned.
          key: a random key.
          batch: B.

        Returns:
          t, int32 `[B]` in [0, T), in continuous time float32 `[B]` in [0, 1); and importance
          weights, float32 `[B]`: the mean over the batch of weights · loss is an unbiased
          estimate of the mean loss over all timesteps.
        """


class UpdateFn(Protocol):
    """The `update` of a timestep sampler."""

    def __call__(self, state: Any, t: Times, losses: PerImage) -> Any:
        """Returns the state of the next step.

        Args:
          state: the one that `sample` saw.
          t: what it drew, `[B]`.
          losses: of the examples at these timesteps, `[B]`, without weights.
        """


class TimestepSampler(NamedTuple):
    """A distribution over timesteps: three pure functions."""

    init: InitFn
    sample: SampleFn
    update: UpdateFn


def uniform(num_timesteps: int) -> TimestepSampler:
    """Every timestep with the same probability; weights 1; nothing to remember."""

    def sample(state, key, batch):
        del state
        t = jax.random.randint(key, (batch,), 0, num_timesteps, jnp.int32)
        return t, jnp.ones(batch, jnp.float32)

    return TimestepSampler(init=lambda: (), sample=sample, update=lambda state, t, losses: state)


def uniform_times() -> TimestepSampler:
    """Times in [0, 1), uniformly, for continuous time; weights 1; nothing to remember."""

    def sample(state, key, batch):
        del state
        return jax.random.uniform(key, (batch,)), jnp.ones(batch, jnp.float32)

    return TimestepSampler(init=lambda: (), sample=sample, update=lambda state, t, losses: state)


def loss_second_moment(
    num_timesteps: int, history: int = 10, uniform_prob: float = 0.001
) -> TimestepSampler:
    """Draws t with probability in proportion to √E[L_t²] (IDDPM, section 3.3, eq. 18).

    The expectation is over the last `history` losses of each timestep; until every timestep
    has that many, all are drawn alike. A share of `uniform_prob` always is.

    The state has `history` float32 `[T, history]`, oldest first, and `counts` int32 `[T]`.
    """

    def init():
        return {
            "history": jnp.zeros((num_timesteps, history), jnp.float32),
            "counts": jnp.zeros(num_timesteps, jnp.int32),
        }

    def sample(state, key, batch):
        p = loss_second_moment_probabilities(state, uniform_prob)
        t = jax.random.choice(key, num_timesteps, (batch,), p=p).astype(jnp.int32)
        return t, 1.0 / (num_timesteps * p[t])

    def update(state, t, losses):
        # A timestep that occurs several times gets all of its losses, in the batch's order: the
        # i-th of them goes to the i-th column behind those that are filled, and as many as do
        # not fit any more push out the oldest.
        counts = state["counts"]
        order = jnp.argsort(t, stable=True)
        t, losses = t[order], losses[order]
        rank = jnp.arange(t.size) - jnp.searchsorted(t, t, side="left")
        filled = counts + jnp.zeros_like(counts).at[t].add(1)
        pushed_out = jnp.maximum(filled - history, 0)

        source = jnp.arange(history)[None] + pushed_out[:, None]
        kept = jnp.take_along_axis(state["history"], jnp.minimum(source, history - 1), axis=1)
        column = counts[t] + rank - pushed_out[t]
        # A loss that later ones of the same batch push out is written past the end: dropped.
        column = jnp.where(column < 0, history, column)
        return {
            "history": kept.at[t, column].set(losses, mode="drop"),
            "counts": jnp.minimum(filled, history),
        }

    return TimestepSampler(init=init, sample=sample, update=update)


def loss_second_moment_probabilities(
    state: dict[str, Shaped[Array, "..."]], uniform_prob: float
) -> PerStep:
    """The probabilities of `loss_second_moment`."""
    num_timesteps, history = state["history"].shape
    uniform_p = jnp.full(num_timesteps, 1.0 / num_timesteps)
    root = jnp.sqrt(jnp.mean(jnp.square(state["history"]), axis=1))
    p = (1 - uniform_prob) * root / root.sum() + uniform_prob * uniform_p
    return jnp.where((state["counts"] == history).all(), p, uniform_p)


_SAMPLERS: dict[str, Callable[[int], TimestepSampler]] = {
    "uniform": uniform,
    "loss-second-moment": loss_second_moment,
}


def timestep_sampler(name: str, num_timesteps: int) -> TimestepSampler:
    """The sampler `name` over `num_timesteps` steps; UsageError if there is no such name."""
    if name not in _SAMPLERS:
        raise UsageError(f"unknown schedule_sampler {name!r}: choose one of {', '.join(_SAMPLERS)}")
    return _SAMPLERS[name](num_timesteps)
