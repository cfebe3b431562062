"""Drawing samples: the one engine of commands, previews, pictures and the library.

What is compiled lives in this module and not in a generator, so that a second generator of the
same network, sampler and shapes compiles nothing. The process, the parameters, the weight of
guidance, seeds and labels are data.

Axis letters: b batch, H W c image, h w small image.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float32, Int, Int32, UInt8

from iddpm_jax import diffusion as dm
from iddpm_jax import models
from iddpm_jax.data.pixels import to_float
from iddpm_jax.data.standardization import UNCHANGED, Standardization
from iddpm_jax.distributed import replicate, to_devices
from iddpm_jax.distributed.mesh import batch_sharding, batch_size_for, replicated
from iddpm_jax.sampling.inputs import Inputs

# A trajectory is cut into so many parts of one length, between which progress is shown.
_FEWEST_PARTS, _MOST_PARTS = 5, 10

# x_t and the x_0 predicted last, `[B, H, W, C]` each, and what else a sampler's steps hand on.
Carry = tuple[Any, ...]


@functools.partial(jax.jit, static_argnames=("image_shape", "x_T_stream", "noise_stream"))
def _start(seed, indices, *, image_shape, x_T_stream, noise_stream):  # noqa: N803
    """The keys of the samples' noise, and their x_T."""
    x_T_keys = dm.stream_keys(seed, x_T_stream, indices)  # noqa: N806
    keys = dm.stream_keys(seed, noise_stream, indices)
    return keys, dm.initial_noise(x_T_keys, image_shape)


@functools.partial(jax.jit, static_argnames=("model", "null_label", "step", "options"))
def _take_steps(
    d,
    params,
    carry,
    keys,
    labels,
    low_res,
    guidance,
    timesteps,
    *,
    model,
    null_label,
    step,
    options,
):
    """Some steps; `options` are those of `step`, as pairs, since a dict cannot be hashed."""

    def model_fn_of(labels):
        def model_fn(x_t, timestep):
            return model.apply({"params": params}, x_t, timestep, y=labels, low_res=low_res)

        return model_fn

    model_fn = model_fn_of(labels)
    if null_label is not None:
        without = model_fn_of(jnp.full_like(labels, null_label))
        model_fn = dm.guided_model_fn(model_fn, without, guidance)
    return dm.sample_steps(d, model_fn, carry, timesteps, keys, step, **dict(options))


@functools.cache
def _finisher(mesh: Mesh, standardization: Standardization) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(standardization.to_uint8, out_shardings=replicated(mesh))


@dataclasses.dataclass(frozen=True)
class Generator:
    """Draws samples; sample i depends on the seed and i alone.

    Attributes:
      d: the process, respaced or not.
      model: the network.
      params: its parameters.
      image_shape: (H, W, C).
      mesh: devices to run on.
      sampler: a name in `diffusion.SAMPLERS`.
      options: the sampler's own, such as `eta`.
      clip_denoised: clip the predicted x_0 to [-1, 1]; None: unless images are standardised.
      null_label: the label that stands for none, where guidance is wanted.
      guidance: weight of classifier-free guidance; without a null label there is none.
      batch_size: images drawn at a time, as far as the devices divide it; 0: all.
      standardization: of the images that the model was trained on.
      x_T_stream, noise_stream: where x_T and the noise of the steps come from.

    Raises:
      UsageError: there is no such sampler, or it does not take such options.
    """

    d: dm.GaussianDiffusion
    model: models.Network
    params: Any
    image_shape: tuple[int, int, int]
    mesh: Mesh
    sampler: str = "ddpm"
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    clip_denoised: bool | None = None
    null_label: int | None = None
    guidance: float = 1.0
    batch_size: int = 0
    standardization: Standardization = UNCHANGED
    x_T_stream: dm.Stream = dm.Stream.X_T  # noqa: N815
    noise_stream: dm.Stream = dm.Stream.SAMPLING_NOISE

    def __post_init__(self):
        dm.check_sampler(self.sampler, **self.options)

    @property
    def clips(self) -> bool:
        """Whether the predicted x_0 is clipped to [-1, 1]."""
        by_default = self.standardization.clip_denoised
        return by_default if self.clip_denoised is None else self.clip_denoised

    def parts(self, count: int = 0) -> list[Int32[np.ndarray, " _"]]:
        """The timesteps in the order they are taken, cut into `count` parts.

        By default all parts are equal, so that there is one program to compile.
        """
        steps = self.d.num_timesteps
        count = count or _num_equal_parts(steps)
        return np.array_split(np.arange(steps - 1, -1, -1, dtype=np.int32), min(count, steps))

    def trajectory(
        self, seed: int, indices: Int[np.ndarray, " b"], inputs: Inputs, num_parts: int = 0
    ) -> Iterator[Carry]:
        """Draws the samples of numbers `indices`; b is a multiple of the devices.

        Yields the carry, x_t and the predicted x_0 `[B, H, W, C]` first, after every one of
        `parts(num_parts)`, the samples last. What a generator of the same network, sampler and
        shapes has compiled before is not compiled again.
        """
        step = dm.SAMPLERS[self.sampler]
        given = (indices, inputs.labels(indices), inputs.low_res(indices), inputs.x_T(indices))
        rows = batch_sharding(self.mesh)
        indices, labels, low_res, x_T = to_devices(given, rows)  # noqa: N806
        keys, noise = _start(
            np.uint32(seed),
            indices,
            image_shape=tuple(self.image_shape),
            x_T_stream=self.x_T_stream,
            noise_stream=self.noise_stream,
        )
        carry = dm.first_carry(step, noise if x_T is None else x_T)
        for timesteps in self.parts(num_parts):
            carry = self._take_steps(step, carry, keys, labels, low_res, timesteps, **self.options)
            yield carry

    def encode(
        self, images: UInt8[np.ndarray, "b H W c"], labels: Int[np.ndarray, " b"] | None
    ) -> Float32[Array, "b H W c"]:
        """x_T of images, by DDIM run backwards, on every device.

        Args:
          images: b is a multiple of the devices.
          labels: None for an unconditional model.
        """
        x_start = self.standardization(to_float(jnp.asarray(images)))
        x_start, labels = to_devices((x_start, labels), batch_sharding(self.mesh))
        # x_0 is clipped: where hardly any signal is left, predicting it from ε multiplies the
        # network's error by 1/√ᾱ, which is 20,000 at the end of the cosine schedule.
        step = dm.ddim_reverse_step
        upwards = np.arange(self.d.num_timesteps - 1, dtype=np.int32)
        carry = dm.first_carry(step, x_start)
        x_T, *_ = self._take_steps(step, carry, None, labels, None, upwards)  # noqa: N806
        return replicate(self.mesh, x_T)

    def finish(self, x_0: Float[Array, "b H W c"]) -> UInt8[Array, "b H W c"]:
        """Samples as images, all of them on every host."""
        return _finisher(self.mesh, self.standardization)(x_0)

    def batches(self, num_samples: int, first: int = 0) -> list[Int[np.ndarray, " b"]]:
        """Numbers from `first` to `num_samples` in batches of one size, which devices divide.

        The last one is filled up beyond `num_samples`, so that nothing compiles twice.
        """
        size = self.batch_size_for(num_samples)
        return [np.arange(start, start + size) for start in range(first, num_samples, size)]

    def batch_size_for(self, num_samples: int) -> int:
        """How many samples are drawn at a time, where so many are wanted."""
        return batch_size_for(num_samples, self.batch_size or num_samples, self.mesh)

    @functools.cached_property
    def _on_devices(self) -> tuple[dm.GaussianDiffusion, Any]:
        """The process and the parameters, on every device."""
        sharding = replicated(self.mesh)
        return to_devices(self.d, sharding), jax.device_put(self.params, sharding)

    def _take_steps(
        self,
        step: dm.SamplerStep,
        carry: Carry,
        keys: jax.Array | None,
        labels: jax.Array | None,
        low_res: jax.Array | None,
        timesteps: np.ndarray,
        **options: Any,
    ) -> Carry:
        d, params = self._on_devices
        if dm.takes(step, "clip_denoised"):
            options["clip_denoised"] = self.clips
        return _take_steps(
            d,
            params,
            carry,
            keys,
            labels,
            low_res,
            np.float32(self.guidance),
            timesteps,
            model=self.model,
            null_label=self.null_label,
            step=step,
            options=tuple(sorted(options.items())),
        )


def _num_equal_parts(steps: int) -> int:
    """Five to ten where that can be, else the next larger number, for a prime one all steps."""
    divisors = [n for n in range(1, steps + 1) if steps % n == 0]
    few = max(n for n in divisors if n <= _MOST_PARTS)
    return few if few >= _FEWEST_PARTS else min(n for n in divisors if n > few or n == steps)


def draw_batches(
    generator: Generator,
    num_samples: int,
    seed: int,
    inputs: Inputs,
    *,
    first: int = 0,
    on_part: Callable[[], None] = lambda: None,
) -> Iterator[tuple[Int[np.ndarray, " b"], Int[np.ndarray, " b"] | None, UInt8[Array, "b H W c"]]]:
    """Yields (indices, labels, images) batch by batch, the last one cut to size.

    Args:
      first: number of the sample to begin with.
      on_part: called after every part of a trajectory is done.
    """
    for indices in generator.batches(num_samples, first):
        for carry in generator.trajectory(seed, indices, inputs):
            jax.block_until_ready(carry)
            on_part()
        images = generator.finish(carry[0])
        kept = indices[indices < num_samples]
        labels = inputs.labels(kept)
        yield kept, labels, images[: len(kept)]


def draw_all(
    generator: Generator, num_samples: int, seed: int, inputs: Inputs
) -> UInt8[np.ndarray, "num_samples H W c"]:
    """All samples at once."""
    batches = draw_batches(generator, num_samples, seed, inputs)
    return np.concatenate([jax.device_get(images) for _, _, images in batches])
