"""The train step: one jitted function from (state, batch) to state.

Axis letters: B global batch, H W C image.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from iddpm_jax import diffusion as dm
from iddpm_jax import models
from iddpm_jax.distributed.mesh import batch_sharding, replicated, shardings_of_state
from iddpm_jax.distributed.pmap import pmap_step
from iddpm_jax.training import loss_scale
from iddpm_jax.training import metrics as mt
from iddpm_jax.training.objective import Objective
from iddpm_jax.training.optimizer import Optimizer
from iddpm_jax.training.state import TrainState, init_state

Batch = Mapping[str, jax.Array]
Losses = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """How steps are taken.

    Attributes:
      seed: of all that a step draws; from it and the step's number.
      microbatch: examples of the global batch that go through the network at a time; 0: all.
      label_dropout: share of the labels that are replaced by the model's last class, the null
        class of classifier-free guidance (Ho & Salimans 2022).
      max_nonfinite_steps: so many steps in a row without a finite loss and gradient are skipped;
        then none is applied any more.
      data_parallel: `jit`, which leaves it to the compiler how to spread the global batch over
        the devices, or `pmap`, where every device does its part and gradients are averaged.
      shard_optimizer: with `jit`, cut what the optimiser keeps, so that every device has a share.
      low_res: for super-resolution: images `[B, H, W, C]` in [-1, 1] and keys `[B]` to what the
        network is to see of them.
      standardize: images in [-1, 1] to what is learned.
    """

    seed: int = 0
    microbatch: int = 0
    label_dropout: float = 0.0
    max_nonfinite_steps: int = 2**31 - 1
    data_parallel: str = "jit"
    shard_optimizer: bool = False
    low_res: Callable[[jax.Array, jax.Array], jax.Array] | None = None
    standardize: Callable[[jax.Array], jax.Array] = lambda images: images


def make_train_step(
    objective: Objective,
    model: models.TrainableNetwork,
    optimizer: Optimizer,
    mesh: Mesh,
    options: StepOptions = StepOptions(),
) -> Callable[[TrainState, Batch], TrainState]:
    """Builds the step.

    Returns:
      `(state, batch) -> state`, which gives the old state's memory away. A batch has `image`
      `[B, H, W, C]` in [-1, 1] and, for a class-conditional model, `label` int32 `[B]`; under
      `pmap` it is what `split_batch` makes of it. All that is random is drawn for the global
      batch, whatever the number of devices, and so is dropout, of which under `pmap` every
      device has its own.
    """
    if options.data_parallel == "pmap":
        share = options.microbatch // mesh.devices.size
        part = dataclasses.replace(options, microbatch=share)
        return pmap_step(mesh, TrainStep(objective, model, optimizer, part))
    step = TrainStep(objective, model, optimizer, options)

    def train_step(state: TrainState, batch: Batch) -> TrainState:
        drawn = step.draw(state, batch["image"].shape)
        return step.update(state, batch, drawn, step.dropout_key(state))

    sharding = replicated(mesh)
    if options.shard_optimizer:
        sharding = _shardings(step.abstract_state(mesh))
    return jax.jit(
        train_step,
        donate_argnums=0,
        in_shardings=(sharding, batch_sharding(mesh)),
        out_shardings=sharding,
    )


def make_init(
    objective: Objective,
    model: models.TrainableNetwork,
    optimizer: Optimizer,
    mesh: Mesh,
    options: StepOptions = StepOptions(),
) -> tuple[Callable[[jax.Array], TrainState], TrainState]:
    """How training begins.

    Returns:
      A jitted `key -> TrainState`, the state before the first step; and that state in the
      abstract, shapes, dtypes and shardings, as restoring needs it.
    """
    step = TrainStep(objective, model, optimizer, options)
    abstract = step.abstract_state(mesh)
    return jax.jit(step.init, out_shardings=_shardings(abstract)), abstract


@dataclasses.dataclass(frozen=True, eq=False)
class TrainStep:
    """The parts of a step, pure functions: `draw`, then `gradients`, then `apply`.

    A batch has the images and labels as they were loaded. What is drawn has an array `[B, …]`
    under each name: `t`, `weights` and what else the objective draws, and what options need.
    """

    objective: Objective
    model: models.TrainableNetwork
    optimizer: Optimizer
    options: StepOptions = StepOptions()

    def init(self, key: jax.Array) -> TrainState:
        """The state before the first step."""
        params = self.model.init_params(key)
        scale = loss_scale.initial(self.model.dtype)
        return init_state(params, self.objective, self.optimizer, scale)

    def abstract_state(self, mesh: Mesh) -> TrainState:
        """Shapes, dtypes and shardings of the state."""
        # The key is in the abstract, too: making one would compile.
        shapes = jax.eval_shape(lambda: self.init(dm.stream(0, dm.Stream.PARAMETERS)))
        shardings = shardings_of_state(mesh, shapes, self.options.shard_optimizer)
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            shapes,
            shardings,
        )

    def draw(self, state: TrainState, shape: tuple[int, ...]) -> dict[str, jax.Array]:
        """Draws what is random about a global batch of images of a shape (B, H, W, C)."""

        def key_of(stream: dm.Stream) -> jax.Array:
            return self._key(state, stream)

        drawn = self.objective.draw(state.sampler_state, key_of, shape)
        if share := self.options.label_dropout:
            key = key_of(dm.Stream.LABEL_DROPOUT)
            drawn["label_is_hidden"] = jax.random.bernoulli(key, share, shape[:1])
        if self.options.low_res is not None:
            drawn["low_res_key"] = jax.random.split(key_of(dm.Stream.TRAINING_LOW_RES), shape[0])
        return drawn

    def dropout_key(self, state: TrainState) -> jax.Array:
        return self._key(state, dm.Stream.DROPOUT)

    def _key(self, state: TrainState, stream: dm.Stream) -> jax.Array:
        return jax.random.fold_in(dm.stream(self.options.seed, stream), state.step)

    def update(
        self, state: TrainState, batch: Batch, drawn: Batch, dropout_key: jax.Array
    ) -> TrainState:
        """What is left of a step when everything random has been drawn."""
        grads, losses = self.gradients(state, batch, drawn, dropout_key)
        return self.apply(state, drawn, grads, losses)

    def gradients(
        self, state: TrainState, batch: Batch, drawn: Batch, dropout_key: jax.Array
    ) -> tuple[Any, Losses]:
        """Gradients of the mean of weights · loss, and the losses `[B]` of each example."""
        examples = self._examples(batch, drawn)
        size = examples["image"].shape[0]
        microbatch = self.options.microbatch or size
        if microbatch == size:
            return self._gradients(state, examples, dropout_key)

        # Microbatch i takes every n-th example from i on. Each then has its share of every
        # device's examples, and nothing moves between devices. By hand, although
        # `optax.microbatching` cuts alike and needs as much memory and as many exchanges: runs
        # would not go on to the same bits, it traces the network twice (a quarter longer to
        # lower a step), it passes no index to fold into the key, and optax 0.2.6 is without it.
        count = size // microbatch
        parts = jax.tree.map(
            lambda x: x.reshape(microbatch, count, *x.shape[1:]).swapaxes(0, 1), examples
        )

        def one_part(total, inputs):
            part, i = inputs
            grads, losses = self._gradients(state, part, jax.random.fold_in(dropout_key, i))
            return jax.tree.map(jnp.add, total, grads), losses

        zeros = jax.tree.map(jnp.zeros_like, state.params)
        total, losses = jax.lax.scan(one_part, zeros, (parts, jnp.arange(count)))
        grads = jax.tree.map(lambda g: g / count, total)
        return grads, jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(size), losses)

    def _examples(self, batch: Batch, drawn: Batch) -> dict[str, jax.Array]:
        """What the objective and the network get to see."""
        examples = {**batch, **drawn}
        if self.options.label_dropout:
            num_classes = self.model.num_classes
            assert num_classes is not None, "label dropout is for class-conditional models"
            hidden = examples.pop("label_is_hidden")
            examples["label"] = jnp.where(hidden, num_classes - 1, batch["label"])
        if self.options.low_res is not None:
            keys = examples.pop("low_res_key")
            examples["low_res"] = self.options.low_res(batch["image"], keys)
        examples["image"] = self.options.standardize(batch["image"])
        return examples

    def _gradients(
        self, state: TrainState, examples: Batch, dropout_key: jax.Array
    ) -> tuple[Any, Losses]:
        def scaled_loss(params: Any) -> tuple[jax.Array, Losses]:
            def model_fn(x_t, timestep):
                return self.model.apply(
                    {"params": params},
                    x_t,
                    timestep,
                    y=examples.get("label"),
                    low_res=examples.get("low_res"),
                    train=True,
                    rngs={"dropout": dropout_key},
                )

            losses = self.objective.losses(model_fn, examples)
            loss = jnp.mean(losses["loss"] * examples["weights"])
            return loss_scale.scaled(loss, state.log2_loss_scale), losses

        grads, losses = jax.grad(scaled_loss, has_aux=True)(state.params)
        return loss_scale.unscaled(grads, state.log2_loss_scale), losses

    def apply(self, state: TrainState, drawn: Batch, grads: Any, losses: Losses) -> TrainState:
        """The state after a step, from gradients and losses of the global batch.

        Where the loss or the gradient is not finite, nothing changes but the counters. After
        `max_nonfinite_steps` of them in a row, or when the loss scale has collapsed, no step is
        applied any more, so that the loop may look now and then.
        """
        scale = state.log2_loss_scale
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(grad_norm) & jnp.isfinite(losses["loss"]).all()
        in_limit = state.skipped_in_row < self.options.max_nonfinite_steps
        finite &= in_limit & loss_scale.alive(scale)

        def learn(params, opt_state, sampler_state):
            updates, opt_state = self.optimizer.update(grads, opt_state, params)
            sampler = self.objective.timestep_sampler
            sampler_state = sampler.update(sampler_state, drawn["t"], losses["loss"])
            return optax.apply_updates(params, updates), opt_state, sampler_state

        old = (state.params, state.opt_state, state.sampler_state)
        params, opt_state, sampler_state = _update_if(finite, learn, *old)
        measured = self._measured(state, drawn, losses, grad_norm, finite)
        return TrainState(
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            sampler_state=sampler_state,
            metrics=mt.merge(state.metrics, measured),
            skipped=state.skipped + (~finite).astype(jnp.int32),
            # With a loss scale overflow is nothing special; when it is too much, that collapses.
            skipped_in_row=jnp.where(finite | (scale is not None), 0, state.skipped_in_row + 1),
            log2_loss_scale=loss_scale.adjusted(scale, finite),
        )

    def _measured(
        self, state: TrainState, drawn: Batch, losses: Losses, grad_norm, finite
    ) -> mt.Metrics:
        """One step's part of the log; where it was not finite, that it had none."""
        t, weights = drawn["t"], drawn["weights"]
        measured = mt.loss_metrics(losses, t, weights, self.objective.num_timesteps, keep=finite)
        measured["grad_norm"] = mt.scalar_metric(grad_norm, keep=finite)
        # The optimiser does not count steps that were skipped.
        learning_rate = self.optimizer.learning_rate(state.step - state.skipped)
        measured["lr"] = mt.scalar_metric(learning_rate, keep=finite)
        if state.log2_loss_scale is not None:
            always = jnp.ones((), bool)
            measured["log2_loss_scale"] = mt.scalar_metric(state.log2_loss_scale, keep=always)
        return measured


def _shardings(abstract: TrainState) -> TrainState:
    return jax.tree.map(lambda leaf: leaf.sharding, abstract)


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
