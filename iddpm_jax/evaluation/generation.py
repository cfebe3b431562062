"""Drawing samples in batches: compiled once, whatever their number, labels or seed.

Axis letters: B batch, H W C image.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from iddpm_jax import diffusion as dm
from iddpm_jax.errors import UsageError
from iddpm_jax.evaluation.standardization import UNCHANGED, Standardization
from iddpm_jax.processes import place

SAMPLERS: Mapping[str, Callable] = {
    "ddpm": dm.ddpm_step,
    "ddim": dm.ddim_step,
    "dpm-solver++": dm.dpm_solver_step,
}

# A trajectory is cut into so many compiled parts at most, between which progress is shown.
_MAX_PARTS = 10


def classifier_free_guidance(conditional, unconditional, guidance, channels: int) -> jax.Array:
    """ε_c + (w - 1)(ε_c - ε_u) (Ho & Salimans 2022, eq. 6 with w for 1 + w).

    w = 1 gives the conditional output bit for bit. A variance half is the conditional's.
    """
    mean_c, mean_u = conditional[..., :channels], unconditional[..., :channels]
    mean = mean_c + (guidance - 1) * (mean_c - mean_u)
    return jnp.concatenate([mean, conditional[..., channels:]], axis=-1)


@dataclasses.dataclass(frozen=True)
class Generator:
    """Draws samples; sample i depends on the seed and i alone.

    Attributes:
      d: the process, respaced or not.
      model: the network.
      params: its parameters.
      image_shape: (H, W, C).
      sampler: a name in `SAMPLERS`.
      eta: of DDIM.
      null_label: the label that stands for none, where guidance is wanted.
      mesh: devices to run on.
      standardization: of the images that the model was trained on.
      second_stage: draws other noise from the same seed than a first stage does.
    """

    d: dm.GaussianDiffusion
    model: nn.Module
    params: Any
    image_shape: tuple[int, int, int]
    sampler: str
    eta: float
    null_label: int | None
    mesh: Mesh
    standardization: Standardization = UNCHANGED
    second_stage: bool = False

    def __post_init__(self):
        if self.sampler not in SAMPLERS:
            raise UsageError(
                f"unknown sampler {self.sampler!r}: choose one of {', '.join(SAMPLERS)}"
            )
        if self.eta and self.sampler != "ddim":
            raise UsageError(f"eta={self.eta} is an option of ddim, not of {self.sampler}")
        if not 0 <= self.eta <= 1:
            raise UsageError(f"eta={self.eta} must be in [0, 1]")

    @property
    def x_T_stream(self) -> dm.Stream:  # noqa: N802
        """Where x_T comes from."""
        return dm.Stream.SECOND_STAGE_X_T if self.second_stage else dm.Stream.X_T

    @property
    def noise_stream(self) -> dm.Stream:
        """Where the noise of the steps comes from."""
        return dm.Stream.SECOND_STAGE_NOISE if self.second_stage else dm.Stream.SAMPLING_NOISE

    def parts(self, count: int = 0) -> list[np.ndarray]:
        """The timesteps in the order they are taken, cut into `count` parts.

        By default into as many equal parts, up to ten, as there can be.
        """
        steps = self.d.num_timesteps
        count = count or max(n for n in range(1, _MAX_PARTS + 1) if steps % n == 0)
        return np.array_split(np.arange(steps - 1, -1, -1, dtype=np.int32), min(count, steps))

    def compile(self, num_parts: int = 0) -> Callable[..., Iterator[tuple[jax.Array, jax.Array]]]:
        """Returns `draw(seed, indices, labels, guidance, x_T=None, low_res=None)`, a generator.

        `indices` int `[B]` are the samples' numbers, `labels` int32 `[B]` or None, `guidance`
        a float, `x_T` `[B, H, W, C]` what to start from instead of the samples' own noise,
        `low_res` `[B, h, w, C]` the input of a super-resolution model. It yields
        (x_t, predicted x_0), `[B, H, W, C]`, after every one of `parts(num_parts)`, the
        samples last. B has to be the same for all calls, and a multiple of the devices.
        """
        step_options = {"clip_denoised": self.standardization.clip_denoised}
        step_options |= {"eta": self.eta} if self.sampler == "ddim" else {}
        step = SAMPLERS[self.sampler]
        rows = NamedSharding(self.mesh, PartitionSpec("data"))
        params = jax.device_put(self.params, NamedSharding(self.mesh, PartitionSpec()))

        @jax.jit
        def start(seed, indices):
            x_T_keys = dm.stream_keys(seed, self.x_T_stream, indices)  # noqa: N806
            keys = dm.stream_keys(seed, self.noise_stream, indices)
            return keys, dm.initial_noise(x_T_keys, self.image_shape)

        @jax.jit
        def advance(params, carry, keys, labels, low_res, guidance, timesteps):
            model_fn = self.model_fn(params, labels, guidance, low_res)
            return dm.sample_steps(self.d, model_fn, carry, timesteps, keys, step, **step_options)

        def draw(seed, indices, labels, guidance, x_T=None, low_res=None):  # noqa: N803
            indices, labels, x_T, low_res = place((indices, labels, x_T, low_res), rows)  # noqa: N806
            keys, own_noise = start(np.uint32(seed), indices)
            x_t = own_noise if x_T is None else x_T
            carry = (x_t, jnp.zeros_like(x_t))
            for part in self.parts(num_parts):
                carry = advance(params, carry, keys, labels, low_res, np.float32(guidance), part)
                yield carry

        return draw

    def finish(self, x_0: jax.Array) -> jax.Array:
        """Samples as uint8 images `[B, H, W, C]`, all of them on every process."""
        everywhere = NamedSharding(self.mesh, PartitionSpec())
        return jax.jit(self.standardization.to_uint8, out_shardings=everywhere)(x_0)

    def model_fn(
        self, params, labels, guidance, low_res=None
    ) -> Callable[[jax.Array, jax.Array], jax.Array]:
        """The network as the diffusion code calls it, guided where there is a null label."""

        def guided(x_t, timestep):
            def network(labels):
                return self.model.apply(
                    {"params": params}, x_t, timestep, y=labels, low_res=low_res
                )

            if self.null_label is None:
                return network(labels)
            nothing = jnp.full_like(labels, self.null_label)
            channels = self.image_shape[-1]
            return classifier_free_guidance(network(labels), network(nothing), guidance, channels)

        return guided


def batch_size_for(num_samples: int, batch_size: int, mesh: Mesh) -> int:
    """The batch size to use: no more than there are samples, a multiple of the devices."""
    devices = mesh.devices.size
    return -(-min(num_samples, batch_size) // devices) * devices


def draw_batches(
    generator: Generator,
    num_samples: int,
    label_of: Callable[[np.ndarray], np.ndarray | None],
    *,
    low_res_of: Callable[[np.ndarray], np.ndarray | None] = lambda indices: None,
    seed: int,
    guidance: float,
    batch_size: int,
    first_batch: int = 0,
    on_part: Callable[[], None] = lambda: None,
) -> Iterator[tuple[np.ndarray, np.ndarray | None, jax.Array]]:
    """Yields (indices, labels, uint8 images) batch by batch, the last one cut to size.

    Args:
      label_of: sample numbers `[B]` to labels int32 `[B]`, or None.
      low_res_of: sample numbers `[B]` to a super-resolution model's input `[B, h, w, C]`.
      batch_size: a multiple of the devices. The last batch is filled up with samples that
        are thrown away, so that nothing compiles twice.
      first_batch: number of the batch to begin with.
      on_part: called after every part of a trajectory is done.
    """
    draw = generator.compile()
    for start in range(first_batch * batch_size, num_samples, batch_size):
        indices = np.arange(start, start + batch_size)
        labels = label_of(indices)
        for carry in draw(seed, indices, labels, guidance, low_res=low_res_of(indices)):
            jax.block_until_ready(carry)
            on_part()
        count = min(batch_size, num_samples - start)
        images = generator.finish(carry[0])
        yield indices[:count], None if labels is None else labels[:count], images[:count]
