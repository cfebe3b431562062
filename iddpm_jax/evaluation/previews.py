"""The sample grids that training draws of itself.

Axis letters: N samples, H W C image.
"""

import dataclasses
import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from iddpm_jax import diffusion as dm
from iddpm_jax.evaluation.grids import make_grid
from iddpm_jax.evaluation.standardization import UNCHANGED, Standardization


@dataclasses.dataclass(frozen=True)
class Preview:
    """Draws one grid of DDIM samples, always from the same noise, so that grids compare.

    Attributes:
      d: the (respaced) process.
      model: the network.
      image_shape: (H, W, C).
      num_classes: classes to show; 0 for an unconditional model.
      num_samples: N, at most. A class-conditional model gets one row for each class.
      class_names: names of the classes, or empty.
      seed: of x_T.
      mesh: devices to run on.
    """

    d: dm.GaussianDiffusion
    model: nn.Module
    image_shape: tuple[int, int, int]
    num_classes: int
    num_samples: int
    class_names: tuple[str, ...]
    seed: int
    mesh: Mesh
    standardization: Standardization = UNCHANGED

    def layout(self) -> tuple[np.ndarray | None, int, tuple[str, ...]]:
        """Labels `[N]` or None, images per row, and names of the rows."""
        classes = self.num_classes
        if not classes:
            return None, max(1, math.isqrt(self.num_samples)), ()
        # Where there are more classes than fit in a square, evenly spread ones are shown.
        rows = min(classes, max(1, math.isqrt(self.num_samples)))
        if classes <= self.num_samples and classes <= 4 * rows:
            rows = classes
        columns = max(1, self.num_samples // rows)
        shown = np.unique(np.linspace(0, classes - 1, rows).round().astype(np.int32))
        named = len(self.class_names)
        names = tuple(self.class_names[i] if i < named else str(i) for i in shown)
        return shown.repeat(columns), columns, names

    def make(self):
        """Returns `params -> uint8 [height, width, 3]`; it compiles when first called."""
        labels, columns, names = self.layout()
        count = self.num_samples if labels is None else len(labels)
        sharding = spread_if_even(self.mesh, count)

        @functools.partial(jax.jit, out_shardings=NamedSharding(self.mesh, PartitionSpec()))
        def sample(params: Any, labels: np.ndarray | None) -> jax.Array:
            keys = dm.stream_keys(self.seed, dm.Stream.PREVIEW_X_T, jnp.arange(count))
            keys, labels = jax.lax.with_sharding_constraint((keys, labels), sharding)

            return ddim_samples(self, params, keys, self.image_shape, labels)

        def draw(params: Any) -> np.ndarray:
            return make_grid(jax.device_get(sample(params, labels)), columns, names)

        return draw


def spread_if_even(mesh: Mesh, count: int) -> NamedSharding:
    """Samples cut over the devices where these divide them, and all of them everywhere if not."""
    divisible = count % mesh.devices.size == 0
    return NamedSharding(mesh, PartitionSpec("data") if divisible else PartitionSpec())


def ddim_samples(
    preview,
    params: Any,
    keys: jax.Array,
    image_shape: tuple[int, int, int],
    labels: jax.Array | None,
    low_res: jax.Array | None = None,
) -> jax.Array:
    """DDIM samples, uint8 `[N, H, W, C]`, of a preview's process and model; keys `[N]` of x_T."""

    def model_fn(x_t, timestep):
        return preview.model.apply({"params": params}, x_t, timestep, y=labels, low_res=low_res)

    x_T = dm.initial_noise(keys, image_shape)  # noqa: N806
    clip = preview.standardization.clip_denoised
    x_0 = dm.sample_loop(preview.d, model_fn, x_T, step=dm.ddim_step, clip_denoised=clip)
    return preview.standardization.to_uint8(x_0)
