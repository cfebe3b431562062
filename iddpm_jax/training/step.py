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
from iddpm_jax.distributed.mesh import (
    batch_sharding,
    on_all_processes,
    replicated,
    shardings_of_state,
)
from iddpm_jax.distributed.pmap import WHOLE, BatchAxis
from iddpm_jax.training import loss_scale
from iddpm_jax.training import metrics as mt
from iddpm_jax.training.state import TrainState, init_state

Batch = Mapping[str, jax.Array]


def make_train_step(
    d: dm.GaussianDiffusion | dm.ContinuousDiffusion,
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
    data_parallel: str = "jit",
    state_sharding: Any = None,
    low_res: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
    standardize: Callable[[jax.Array], jax.Array] = lambda images: images,
) -> Callable[[TrainState, Batch], TrainState]:
    """Builds the step.

    With `label_dropout`, that share of the labels is replaced by the model's last class, the
    null class of classifier-free guidance (Ho & Salimans 2022).

    Args:
      data_parallel: `jit`, which leaves it to the compiler how to spread the global batch over
        the mesh, or `pmap`, where every device does its part and gradients are averaged.
      state_sharding: of every leaf of the state, for `jit`; by default all of it everywhere.
      low_res: for super-resolution: images `[B, H, W, C]` and keys `[B]` to what the network is
        to see of them.
      standardize: images in [-1, 1] to what the process sees of them.

    Returns:
      `(state, batch) -> state`, which gives the old state's memory away. A batch has `image`
      `[B, H, W, C]` in [-1, 1] and, for a class-conditional model, `label` int32 `[B]`; under
      `pmap` it is what `split_batch` makes of it. Timesteps and noise are drawn for
      the global batch from the seed and the step's number, whatever the number of devices, and
      so is dropout, which under `pmap` every device has its own of.
    """
    parts = mesh.devices.size if data_parallel == "pmap" else 1
    axis = BatchAxis("data", parts) if data_parallel == "pmap" else WHOLE
    update = make_update(
        d, model, optimizer, timestep_sampler, learning_rate, microbatch, max_nonfinite_steps, axis
    )

    def train_step(state: TrainState, batch: Batch) -> TrainState:
        def key(stream: dm.Stream) -> jax.Array:
            return jax.random.fold_in(dm.stream(seed, stream), state.step)

        size, *image_shape = batch["image"].shape
        size *= parts
        t, weights = timestep_sampler.sample(
            state.sampler_state, key(dm.Stream.TRAINING_TIMESTEPS), size
        )
        noise = jax.random.normal(key(dm.Stream.TRAINING_NOISE), (size, *image_shape), jnp.float32)
        examples = {**batch, **axis.mine({"t": t, "weights": weights, "noise": noise})}
        if label_dropout:
            hidden = jax.random.bernoulli(key(dm.Stream.LABEL_DROPOUT), label_dropout, (size,))
            examples["label"] = jnp.where(axis.mine(hidden), model.num_classes - 1, batch["label"])
        if low_res is not None:
            keys = axis.mine(jax.random.split(key(dm.Stream.TRAINING_LOW_RES), size))
            examples["low_res"] = low_res(batch["image"], keys)
        examples["image"] = standardize(batch["image"])
        return update(state, examples, axis.fold_in(key(dm.Stream.DROPOUT)))

    if data_parallel == "pmap":
        # The state is not mapped over: one array on all devices, before and after.
        mapped = jax.pmap(
            train_step,
            axis_name=axis.name,
            in_axes=(None, 0),
            out_axes=None,
            devices=list(mesh.devices.flat),
            donate_argnums=0,
        )
        return lambda state, batch: on_all_processes(mesh, mapped(state, batch))
    state_sharding = state_sharding or replicated(mesh)
    return jax.jit(
        train_step,
        donate_argnums=0,
        in_shardings=(state_sharding, batch_sharding(mesh)),
        out_shardings=state_sharding,
    )


def make_update(
    d: dm.GaussianDiffusion | dm.ContinuousDiffusion,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    timestep_sampler: dm.TimestepSampler,
    learning_rate: optax.Schedule,
    microbatch: int = 0,
    max_nonfinite_steps: int = 2**31 - 1,
    axis: BatchAxis = WHOLE,
) -> Callable[[TrainState, Batch, jax.Array], TrainState]:
    """The part of a step that is left when everything random has been drawn.

    Args:
      microbatch: examples of the global batch per forward pass; 0: all.
      axis: what part of the global batch the examples are.

    Returns:
      `(state, examples, dropout_key) -> state`, pure. Examples are a batch with `t` int32
      `[B]`, importance `weights` `[B]` and `noise` `[B, H, W, C]`. Where a loss or the
      gradient is not finite, nothing changes but the counters. After `max_nonfinite_steps` of
      them in a row, or when the loss scale has collapsed, no step is applied any more, so that
      the caller may look now and then.
    """

    def update(state: TrainState, examples: Batch, dropout_key: jax.Array) -> TrainState:
        scale = state.log2_loss_scale
        grads, losses = _gradients(
            d, model, state.params, examples, dropout_key, microbatch // axis.size, scale
        )
        grads = axis.mean(grads)
        t, weights, losses = axis.all((examples["t"], examples["weights"], losses))
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(grad_norm) & jnp.isfinite(losses["loss"]).all()
        finite &= (state.skipped_in_row < max_nonfinite_steps) & loss_scale.alive(scale)
        old = (state.params, state.opt_state, state.sampler_state)

        def learn(params, opt_state, sampler_state):
            updates, opt_state = optimizer.update(grads, opt_state, params)
            sampler_state = timestep_sampler.update(sampler_state, t, losses["loss"])
            return optax.apply_updates(params, updates), opt_state, sampler_state

        params, opt_state, sampler_state = _update_if(finite, learn, *old)

        measured = mt.loss_metrics(losses, t, weights, d.num_timesteps, keep=finite)
        measured["grad_norm"] = mt.scalar_metric(grad_norm, keep=finite)
        # The optimiser does not count steps that were skipped.
        measured["lr"] = mt.scalar_metric(learning_rate(state.step - state.skipped), keep=finite)
        if scale is not None:
            measured["log2_loss_scale"] = mt.scalar_metric(scale, keep=jnp.ones((), bool))

        return TrainState(
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            sampler_state=sampler_state,
            metrics=mt.merge(state.metrics, measured),
            skipped=state.skipped + ~finite,
            # With a loss scale overflow is nothing special; when it is too much, that collapses.
            skipped_in_row=jnp.where(finite | (scale is not None), 0, state.skipped_in_row + 1),
            log2_loss_scale=loss_scale.adjusted(scale, finite),
        )

    return update


def _update_if(condition: jax.Array, update: Callable, *old: Any) -> Any:
    """`update(*old)` where the condition holds, and else `old`.

    On CPUs by a branch, inside which everything is updated in place: selecting would copy the
    moments and the parameters first, because the old ones are needed again. On accelerators by
    selecting, because a branch waits for the host.
    """

    def branch(*old):
        return jax.lax.cond(condition, update, lambda *old: old, *old)

    def select(*old):
        return jax.tree.map(lambda n, o: jnp.where(condition, n, o), update(*old), old)

    return jax.lax.platform_dependent(*old, cpu=branch, default=select)


def _weighted_loss(
    params: Any,
    d: dm.GaussianDiffusion | dm.ContinuousDiffusion,
    model: nn.Module,
    examples: Batch,
    dropout_key: jax.Array,
    log2_scale: jax.Array | None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss that is minimised, scaled: the mean over the batch of weights · loss; its terms."""

    def model_fn(x_t, timestep):
        return model.apply(
            {"params": params},
            x_t,
            timestep,
            y=examples.get("label"),
            low_res=examples.get("low_res"),
            train=True,
            rngs={"dropout": dropout_key},
        )

    losses = dm.training_losses(d, model_fn, examples["image"], examples["t"], examples["noise"])
    loss = jnp.mean(losses["loss"] * examples["weights"])
    return loss_scale.scaled(loss, log2_scale), losses


def _gradients(d, model, params, examples, dropout_key, microbatch, log2_scale):
    """Gradients, and losses `[B]`, of all examples, `microbatch` of them at a time."""

    def grad_fn(params, d, model, examples, dropout_key):
        grads, losses = jax.grad(_weighted_loss, has_aux=True)(
            params, d, model, examples, dropout_key, log2_scale
        )
        return loss_scale.unscaled(grads, log2_scale), losses

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


def initial_metrics(d: dm.GaussianDiffusion, loss_scaling: bool = False) -> mt.Metrics:
    """The step's metrics before they have seen anything."""
    empty = jnp.zeros(1)
    losses = dict.fromkeys(dm.training_loss_names(d), empty)
    nothing = jnp.zeros((), bool)
    metrics = mt.loss_metrics(losses, jnp.zeros(1, jnp.int32), empty, d.num_timesteps, nothing)
    for name in ("grad_norm", "lr", *["log2_loss_scale"] * loss_scaling):
        metrics[name] = mt.scalar_metric(jnp.zeros(()), nothing)
    return metrics


def make_init(
    d: dm.GaussianDiffusion | dm.ContinuousDiffusion,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    timestep_sampler: dm.TimestepSampler,
    mesh: Mesh,
    shard_optimizer: bool = False,
) -> tuple[Callable[[jax.Array], TrainState], TrainState]:
    """How training begins.

    Returns:
      A jitted `key -> TrainState`, the state before the first step; and that state in the
      abstract, shapes, dtypes and shardings, as restoring needs it.
    """

    def init(key: jax.Array) -> TrainState:
        params = model.init_params(key)
        scale = loss_scale.initial(model.dtype)
        metrics = initial_metrics(d, scale is not None)
        return init_state(params, optimizer, timestep_sampler, metrics, scale)

    shapes = jax.eval_shape(lambda: init(dm.stream(0, dm.Stream.PARAMETERS)))
    shardings = shardings_of_state(mesh, shapes, shard_optimizer)
    abstract = jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        shapes,
        shardings,
    )
    return jax.jit(init, out_shardings=shardings), abstract
