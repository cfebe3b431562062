"""What a run minimises: the protocol that the train step knows, and the objectives there are.

Axis letters: B batch, H W C image, T diffusion steps.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from iddpm_jax import diffusion as dm

Arrays = dict[str, jax.Array]
ModelFn = Callable[[jax.Array, jax.Array], jax.Array]
KeyOf = Callable[[dm.Stream], jax.Array]


class Objective(Protocol):
    """What a run minimises.

    The step, the loop, averages and checkpoints are the same for all of them: to train on
    something else, write a class with these members, and hand it to `make_train_step`.
    """

    @property
    def timestep_sampler(self) -> dm.TimestepSampler:
        """How times are drawn. Its state is kept in the train state, and updated by each step."""

    @property
    def num_timesteps(self) -> int:
        """What every t is below; the log has each quarter of that range by itself."""

    @property
    def is_bound(self) -> bool:
        """Whether `loss` is the variational bound, of which no value is too large at first."""

    def draw(self, sampler_state: Any, key_of: KeyOf, shape: tuple[int, ...]) -> Arrays:
        """Draws what is random about a batch.

        Args:
          sampler_state: the state of `timestep_sampler`.
          key_of: the key that this step has for a stream of random numbers.
          shape: (B, H, W, C) of the global batch.

        Returns:
          Arrays `[B, …]`, under the names by which `losses` finds them. Two are always there:
          `t` `[B]`, from 0 to below `num_timesteps`, and importance weights `weights` float32
          `[B]`: what is minimised is the mean over the batch of weights · loss.
        """

    def losses(self, model_fn: ModelFn, examples: Mapping[str, jax.Array]) -> Arrays:
        """The losses of each example.

        Args:
          model_fn: the network that is trained, `(x_t [B, H, W, C], timestep [B] float32) ->
            output`.
          examples: `image` `[B, H, W, C]`; for a class-conditional network `label` int32 `[B]`;
            and what `draw` returned. B may be a part of the global batch.

        Returns:
          Arrays float32 `[B]` under `loss_names`: `loss`, which is minimised, and what else is
          to be in the log.
        """

    def loss_names(self) -> tuple[str, ...]:
        """The keys of what `losses` returns, for logs that begin before anything is computed."""


@dataclasses.dataclass(frozen=True)
class DiscreteObjective:
    """The losses of improved-diffusion, over the T steps of a discrete process."""

    process: dm.GaussianDiffusion
    timestep_sampler: dm.TimestepSampler

    @property
    def num_timesteps(self) -> int:
        return self.process.num_timesteps

    @property
    def is_bound(self) -> bool:
        return self.process.loss_type.is_vb

    def draw(self, sampler_state: Any, key_of: KeyOf, shape: tuple[int, ...]) -> Arrays:
        return _draw_times_and_noise(self.timestep_sampler, sampler_state, key_of, shape)

    def losses(self, model_fn: ModelFn, examples: Mapping[str, jax.Array]) -> Arrays:
        image, t, noise = (examples[name] for name in ("image", "t", "noise"))
        return dm.training_losses(self.process, model_fn, image, t, noise)

    def loss_names(self) -> tuple[str, ...]:
        return dm.training_loss_names(self.process)


@dataclasses.dataclass(frozen=True)
class ContinuousObjective:
    """The error of the predicted noise, over times in [0, 1) of a continuous process."""

    process: dm.ContinuousDiffusion
    timestep_sampler: dm.TimestepSampler = dataclasses.field(default_factory=dm.uniform_times)
    num_timesteps = 1
    is_bound = False

    def draw(self, sampler_state: Any, key_of: KeyOf, shape: tuple[int, ...]) -> Arrays:
        return _draw_times_and_noise(self.timestep_sampler, sampler_state, key_of, shape)

    def losses(self, model_fn: ModelFn, examples: Mapping[str, jax.Array]) -> Arrays:
        image, t, noise = (examples[name] for name in ("image", "t", "noise"))
        loss = dm.noise_loss(self.process, model_fn, image, t, noise)
        return dict.fromkeys(self.loss_names(), loss)

    def loss_names(self) -> tuple[str, ...]:
        return ("loss", str(self.process.loss))


def _draw_times_and_noise(
    sampler: dm.TimestepSampler, sampler_state: Any, key_of: KeyOf, shape: tuple[int, ...]
) -> Arrays:
    t, weights = sampler.sample(sampler_state, key_of(dm.Stream.TRAINING_TIMESTEPS), shape[0])
    noise = jax.random.normal(key_of(dm.Stream.TRAINING_NOISE), shape, jnp.float32)
    return {"t": t, "weights": weights, "noise": noise}
