"""The train step: one jitted function from (state, batch) to state.

Axis letters: B global batch, H W C image.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from iddpm_jax import diffusion as dm
from iddpm_jax.training import metrics as mt
from iddpm_jax.training import sharding
from iddpm_jax.training.state import TrainState, init_state

Batch = Mapping[str, jax.Array]


def make_train_step(
    d: dm.GaussianDiffusion,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    timestep_sampler: dm.TimestepSampler,
    learning_rate: optax.Schedule,
    mesh: Mesh,
    *,
    seed: int,
    microbatch: int = 0,
    label_dropout: float = 0.0,
    max_nonfinite_steps: int = 2**31 - 1,
) -> Callable[[TrainState, Batch], TrainState]:
    """Builds the step.

    With `label_dropout`, that share of the labels is replaced by the model's last class, the
    null class of classifier-free guidance (Ho & Salimans 2022).

    Returns:
      `(state, batch) -> state`, jitted over `mesh`, which gives the old state's memory
      away. A batch has `image` `[B, H, W, C]` in [-1, 1] and, for a class-conditional
      model, `label` int32 `[B]`. Timesteps, noise and dropout are drawn for the global
      batch from the seed and the step's number, whatever the number of devices.
    """
    update = make_update(
        d, model, optimizer, timestep_sampler, learning_rate, microbatch, max_nonfinite_steps
    )

    def train_step(state: TrainState, batch: Batch) -> TrainState:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        t_key, noise_key, dropout_key = jax.random.split(key, 3)
        size = batch["image"].shape[0]
        t, weights = timestep_sampler.sample(state.sampler_state, t_key, size)
        noise = jax.random.normal(noise_key, batch["image"].shape, jnp.float32)
        examples = {**batch, "t": t, "weights": weights, "noise": noise}
        if label_dropout:
            hidden = jax.random.bernoulli(jax.random.fold_in(key, 3), label_dropout, (size,))
            examples["label"] = jnp.where(hidden, model.num_classes - 1, batch["label"])
        return update(state, examples, dropout_key)

    state_sharding, batch_sharding = sharding.replicated(mesh), sharding.batch_sharding(mesh)
    return jax.jit(
        train_step,
        donate_argnums=0,
        in_shardings=(state_sharding, batch_sharding),
        out_shardings=state_sharding,
    )


def make_update(
    d: dm.GaussianDiffusion,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    timestep_sampler: dm.TimestepSampler,
    learning_rate: optax.Schedule,
    microbatch: int = 0,
    max_nonfinite_steps: int = 2**31 - 1,
) -> Callable[[TrainState, Batch, jax.Array], TrainState]:
    """The part of a step that is left when everything random has been drawn.

    Returns:
      `(state, examples, dropout_key) -> state`, pure. Examples are a batch with `t` int32
      `[B]`, importance `weights` `[B]` and `noise` `[B, H, W, C]`. Where a loss or the
      gradient is not finite, nothing changes but the counters. After `max_nonfinite_steps` of
      them in a row no step is applied any more, so that the caller may look now and then.
    """

    def update(state: TrainState, examples: Batch, dropout_key: jax.Array) -> TrainState:
        t = examples["t"]
        grads, losses = _gradients(d, model, state.params, examples, dropout_key, microbatch)
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(grad_norm) & jnp.isfinite(losses["loss"]).all()
        finite &= state.skipped_in_row < max_nonfinite_steps
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        sampler_state = timestep_sampler.update(state.sampler_state, t, losses["loss"])

        measured = mt.loss_metrics(losses, t, examples["weights"], d.num_timesteps, keep=finite)
        measured["grad_norm"] = mt.scalar_metric(grad_norm, keep=finite)
        # The optimiser does not count steps that were skipped.
        measured["lr"] = mt.scalar_metric(learning_rate(state.step - state.skipped), keep=finite)

        def if_finite(new, old):
            return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)

        return TrainState(
            step=state.step + 1,
            params=if_finite(params, state.params),
            opt_state=if_finite(opt_state, state.opt_state),
            sampler_state=if_finite(sampler_state, state.sampler_state),
            metrics=mt.merge(state.metrics, measured),
            skipped=state.skipped + ~finite,
            skipped_in_row=jnp.where(finite, 0, state.skipped_in_row + 1),
        )

    return update


def _weighted_loss(
    params: Any, d: dm.GaussianDiffusion, model: nn.Module, examples: Batch, dropout_key: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss that is minimised: the mean over the batch of weights · loss, and its terms."""

    def model_fn(x_t, timestep):
        return model.apply(
            {"params": params},
            x_t,
            timestep,
            y=examples.get("label"),
            train=True,
            rngs={"dropout": dropout_key},
        )

    losses = dm.training_losses(d, model_fn, examples["image"], examples["t"], examples["noise"])
    return jnp.mean(losses["loss"] * examples["weights"]), losses


def _gradients(d, model, params, examples, dropout_key, microbatch):
    """Gradients, and losses `[B]`, of the whole batch, `microbatch` examples at a time."""
    grad_fn = jax.grad(_weighted_loss, has_aux=True)
    size = examples["image"].shape[0]
    if microbatch in (0, size):
        return grad_fn(params, d, model, examples, dropout_key)

    # Microbatch i takes every n-th example from i on. Each then has its share of every
    # device's examples, and nothing moves between devices.
    count = size // microbatch
    parts = jax.tree.map(
        lambda x: x.reshape(microbatch, count, *x.shape[1:]).swapaxes(0, 1), examples
    )

    def one_part(total, inputs):
        part, i = inputs
        grads, losses = grad_fn(params, d, model, part, jax.random.fold_in(dropout_key, i))
        return jax.tree.map(jnp.add, total, grads), losses

    zeros = jax.tree.map(jnp.zeros_like, params)
    total, losses = jax.lax.scan(one_part, zeros, (parts, jnp.arange(count)))
    grads = jax.tree.map(lambda g: g / count, total)
    return grads, jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(size), losses)


def initial_metrics(d: dm.GaussianDiffusion) -> mt.Metrics:
    """The step's metrics before they have seen anything."""
    empty = jnp.zeros(1)
    losses = dict.fromkeys(dm.training_loss_names(d), empty)
    nothing = jnp.zeros((), bool)
    metrics = mt.loss_metrics(losses, jnp.zeros(1, jnp.int32), empty, d.num_timesteps, nothing)
    for name in ("grad_norm", "lr"):
        metrics[name] = mt.scalar_metric(jnp.zeros(()), nothing)
    return metrics


def make_init(
    d: dm.GaussianDiffusion,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    timestep_sampler: dm.TimestepSampler,
    mesh: Mesh,
) -> Callable[[jax.Array], TrainState]:
    """A jitted `key -> TrainState`, the state before the first step, on every device.

    `jax.eval_shape` of it is the abstract state that restoring needs.
    """

    def init(key: jax.Array) -> TrainState:
        params = model.init_params(key)
        return init_state(params, optimizer, timestep_sampler, initial_metrics(d))

    return jax.jit(init, out_shardings=sharding.replicated(mesh))
