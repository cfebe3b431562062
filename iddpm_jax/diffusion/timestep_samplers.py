"""How training draws its timesteps: pure (init, sample, update) over a pytree.

The state lives in the train state, so it is sharded, checkpointed and restored with it.
Axis letters: B batch, T diffusion steps.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class TimestepSampler(NamedTuple):
    """A distribution over timesteps with unbiased importance weights.

    init: `() -> state`.
    sample: `(state, key, batch) -> (t int32 [B], weights float32 [B])`; the mean over the
      batch of weights · loss estimates the mean loss over all timesteps.
    update: `(state, t [B], losses [B]) -> state`, with unweighted losses.
    """

    init: Callable[[], Any]
    sample: Callable[[Any, jax.Array, int], tuple[jax.Array, jax.Array]]
    update: Callable[[Any, jax.Array, jax.Array], Any]


def uniform(num_timesteps: int) -> TimestepSampler:
    """Every timestep with the same probability; weights 1; nothing to remember."""

    def sample(state, key, batch):
        del state
        t = jax.random.randint(key, (batch,), 0, num_timesteps, jnp.int32)
        return t, jnp.ones(batch, jnp.float32)

    return TimestepSampler(init=lambda: (), sample=sample, update=lambda state, t, losses: state)


_SAMPLERS: dict[str, Callable[[int], TimestepSampler]] = {"uniform": uniform}


def timestep_sampler(name: str, num_timesteps: int) -> TimestepSampler:
    """The sampler `name` over `num_timesteps` steps; ValueError if there is no such name."""
    if name not in _SAMPLERS:
        raise ValueError(f"unknown schedule_sampler {name!r}: choose one of {', '.join(_SAMPLERS)}")
    return _SAMPLERS[name](num_timesteps)
