"""Drawing samples in batches: compiled once, whatever their number, labels or seed.

What is compiled lives in this module and not in a generator, so that a second generator of the
same network, sampler and shapes compiles nothing. The process and the parameters are data.

Axis letters: B batch, H W C image.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from iddpm_jax import diffusion as dm
from iddpm_jax.data.standardization import UNCHANGED, Standardization
from iddpm_jax.distributed import replicate, to_devices
from iddpm_jax.errors import UsageError

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
class _Network:
    """What of a network is known when it is compiled; it can be hashed if the module can."""

    model: nn.Module
    null_label: int | None
    channels: int

    def bind(self, params, labels, guidance, low_res) -> Callable[..., jax.Array]:
        """The network as the diffusion code calls it, guided where there is a null label."""

        def guided(x_t, timestep):
            def network(labels):
                return self.model.apply(
                    {"params": params}, x_t, timestep, y=labels, low_res=low_res
                )

            if self.null_label is None:
                return network(labels)
            nothing = jnp.full_like(labels, self.null_label)
            return classifier_free_guidance(
                network(labels), network(nothing), guidance, self.channels
            )

        return guided


@functools.partial(jax.jit, static_argnames=("image_shape", "x_T_stream", "noise_stream"))
def _start(seed, indices, *, image_shape, x_T_stream, noise_stream):  # noqa: N803
    """The keys of the samples' noise, and their x_T."""
    x_T_keys = dm.stream_keys(seed, x_T_stream, indices)  # noqa: N806
    keys = dm.stream_keys(seed, noise_stream, indices)
    return keys, dm.initial_noise(x_T_keys, image_shape)


@functools.partial(jax.jit, static_argnames=("network", "step", "options"))
def _advance(
    d, params, carry, keys, labels, low_res, guidance, timesteps, *, network, step, options
):
    """Some steps; `options` are those of `step`, as pairs, since a dict cannot be hashed."""
    model_fn = network.bind(params, labels, guidance, low_res)
    return dm.sample_steps(d, model_fn, carry, timesteps, keys, step, **dict(options))


@functools.cache
def _finisher(mesh: Mesh, standardization: Standardization) -> Callable[[jax.Array], jax.Array]:
    replicated = NamedSharding(mesh, PartitionSpec())
    return jax.jit(standardization.to_uint8, out_shardings=replicated)


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
      x_T_stream, noise_stream: where x_T and the noise of the steps come from.
      clip_denoised: clip the predicted x_0 to [-1, 1]; None: unless images are standardised.
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
    x_T_stream: dm.Stream = dm.Stream.X_T  # noqa: N815
    noise_stream: dm.Stream = dm.Stream.SAMPLING_NOISE
    clip_denoised: bool | None = None

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
    def clips(self) -> bool:
        """Whether the predicted x_0 is clipped to [-1, 1]."""
        by_default = self.standardization.clip_denoised
        return by_default if self.clip_denoised is None else self.clip_denoised

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
        samples last. B is a multiple of the devices. What a generator of the same network,
        sampler and shapes has compiled before is not compiled again.
        """
        rows = NamedSharding(self.mesh, PartitionSpec("data"))
        d, params = self._on_devices()
        how = self._compiled_for(SAMPLERS[self.sampler])

        def draw(seed, indices, labels, guidance, x_T=None, low_res=None):  # noqa: N803
            indices, labels, x_T, low_res = to_devices((indices, labels, x_T, low_res), rows)  # noqa: N806
            keys, own_noise = self._start(seed, indices)
            x_t = own_noise if x_T is None else x_T
            carry = (x_t, jnp.zeros_like(x_t))
            weight = np.float32(guidance)
            for part in self.parts(num_parts):
                carry = _advance(d, params, carry, keys, labels, low_res, weight, part, **how)
                yield carry

        return draw

    def encode(
        self, images: np.ndarray, labels: np.ndarray | None, guidance: float = 1.0
    ) -> jax.Array:
        """x_T of images, by DDIM run backwards.

        Args:
          images: uint8 `[B, H, W, C]`; B is a multiple of the devices.
          labels: int32 `[B]`, or None.

        Returns:
          float32 `[B, H, W, C]`, on every device.
        """
        rows = NamedSharding(self.mesh, PartitionSpec("data"))
        x_start = self.standardization(jnp.asarray(images, jnp.float32) / 127.5 - 1)
        x_start, labels = to_devices((x_start, labels), rows)
        d, params = self._on_devices()
        carry = (x_start, jnp.zeros_like(x_start))
        up = np.arange(self.d.num_timesteps - 1, dtype=np.int32)
        how = self._compiled_for(dm.ddim_reverse_step)
        # x_0 is clipped: where hardly any signal is left, predicting it from ε multiplies the
        # network's error by 1/√ᾱ, which is 20,000 at the end of the cosine schedule.
        x_T, _ = _advance(d, params, carry, None, labels, None, np.float32(guidance), up, **how)  # noqa: N806
        return replicate(self.mesh, x_T)

    def finish(self, x_0: jax.Array) -> jax.Array:
        """Samples as uint8 images `[B, H, W, C]`, all of them on every process."""
        return _finisher(self.mesh, self.standardization)(x_0)

    def _start(self, seed: int, indices: jax.Array) -> tuple[jax.Array, jax.Array]:
        return _start(
            np.uint32(seed),
            indices,
            image_shape=tuple(self.image_shape),
            x_T_stream=self.x_T_stream,
            noise_stream=self.noise_stream,
        )

    def _on_devices(self) -> tuple[dm.GaussianDiffusion, Any]:
        replicated = NamedSharding(self.mesh, PartitionSpec())
        return to_devices(self.d, replicated), jax.device_put(self.params, replicated)

    def _compiled_for(self, step: Callable) -> dict[str, Any]:
        """What `_advance` is compiled for, besides shapes."""
        options = {"clip_denoised": self.clips}
        options |= {"eta": self.eta} if step is dm.ddim_step else {}
        network = _Network(self.model, self.null_label, self.image_shape[-1])
        return {"network": network, "step": step, "options": tuple(options.items())}


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
    x_T_of: Callable[[np.ndarray], np.ndarray | None] = lambda indices: None,  # noqa: N803
    seed: int,
    guidance: float,
    batch_size: int,
    first: int = 0,
    on_part: Callable[[], None] = lambda: None,
) -> Iterator[tuple[np.ndarray, np.ndarray | None, jax.Array]]:
    """Yields (indices, labels, uint8 images) batch by batch, the last one cut to size.

    Args:
      label_of: sample numbers `[B]` to labels int32 `[B]`, or None.
      low_res_of: sample numbers `[B]` to a super-resolution model's input `[B, h, w, C]`.
      x_T_of: sample numbers `[B]` to what to start from `[B, H, W, C]`; None for their own noise.
      batch_size: a multiple of the devices. The last batch is filled up with samples that
        are thrown away, so that nothing compiles twice.
      first: number of the sample to begin with.
      on_part: called after every part of a trajectory is done.
    """
    draw = generator.compile()
    for start in range(first, num_samples, batch_size):
        indices = np.arange(start, start + batch_size)
        labels = label_of(indices)
        given = {"x_T": x_T_of(indices), "low_res": low_res_of(indices)}
        for carry in draw(seed, indices, labels, guidance, **given):
            jax.block_until_ready(carry)
            on_part()
        count = min(batch_size, num_samples - start)
        images = generator.finish(carry[0])
        yield indices[:count], None if labels is None else labels[:count], images[:count]


def draw_all(
    generator: Generator,
    num_samples: int,
    label_of: Callable[[np.ndarray], np.ndarray | None],
    *,
    batch_size: int,
    **options: Any,
) -> np.ndarray:
    """All samples at once, uint8 `[num_samples, H, W, C]`; arguments as of `draw_batches`.

    `batch_size` may be any number: it is made to fit samples and devices.
    """
    size = batch_size_for(num_samples, batch_size, generator.mesh)
    batches = draw_batches(generator, num_samples, label_of, batch_size=size, **options)
    return np.concatenate([jax.device_get(images) for _, _, images in batches])
