"""Pictures of super-resolution: what was given, what is made of it, and what it was.

Axis letters: N images, H W large, h w small, C channels.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from iddpm_jax import diffusion as dm
from iddpm_jax.data.pixels import to_uint8
from iddpm_jax.data.standardization import UNCHANGED, Standardization
from iddpm_jax.files.pictures import make_grid
from iddpm_jax.sampling.generator import draw_all
from iddpm_jax.sampling.previews import ddim_generator


def bilinear(low_res: np.ndarray, size: int) -> np.ndarray:
    """Up-samples uint8 `[N, h, w, C]` to `[N, size, size, C]`, half-pixel centres."""
    shape = (len(low_res), size, size, low_res.shape[-1])
    return (
        np.asarray(jax.image.resize(jnp.asarray(low_res, jnp.float32), shape, "bilinear"))
        .round()
        .astype(np.uint8)
    )


def comparison_grid(
    low_res: np.ndarray, results: np.ndarray, originals: np.ndarray | None = None
) -> np.ndarray:
    """Low resolution, bilinear, result and, if there is one, the original, side by side.

    Args:
      low_res: uint8 `[N, h, w, C]`.
      results, originals: uint8 `[N, H, W, C]`.

    Returns:
      uint8 `[height, width, 3]`, several such groups in a row.
    """
    size = results.shape[1]
    nearest = (np.arange(size) * low_res.shape[1]) // size
    shown = [low_res[:, nearest][:, :, nearest], bilinear(low_res, size), results]
    shown += [] if originals is None else [originals]
    groups = max(1, round(math.sqrt(len(results) / len(shown))))
    blank = np.full((-len(results) % groups, *results.shape[1:]), 255, np.uint8)
    cells = np.stack([np.concatenate([images, blank]) for images in shown], axis=1)
    return make_grid(cells.reshape(-1, *results.shape[1:]), groups * len(shown))


@dataclasses.dataclass(frozen=True)
class SuperResolutionPreview:
    """Draws what a super-resolution model makes of images of the data, with DDIM.

    Attributes:
      d: the process, usually respaced.
      model: the network.
      low_res: images `[N, H, W, C]` and keys `[N]` to the network's low-resolution input.
      originals: uint8 `[N, H, W, C]`.
      labels: int32 `[N]`, or None.
      seed: of the noise, always the same.
      mesh: devices to run on.
      standardization: of the images that the model is trained on.
      batch_size: images drawn at a time, as far as the devices divide it; 0: all.
    """

    d: dm.GaussianDiffusion
    model: nn.Module
    low_res: Callable[[jax.Array, jax.Array], jax.Array]
    originals: np.ndarray
    labels: np.ndarray | None
    seed: int
    mesh: Mesh
    standardization: Standardization = UNCHANGED
    batch_size: int = 0

    def make(self) -> Callable[[Any], np.ndarray]:
        """Returns `params -> uint8 [height, width, 3]`; it compiles when first called."""
        count = len(self.originals)

        def draw(params: Any) -> np.ndarray:
            keys = dm.stream_keys(self.seed, dm.Stream.PREVIEW_LOW_RES, np.arange(count))
            low_res = self.low_res(self.originals.astype(np.float32) / 127.5 - 1, keys)
            low_res = np.asarray(low_res)
            results = draw_all(
                ddim_generator(self, params, self.originals.shape[1:]),
                count,
                lambda indices: None if self.labels is None else self.labels[indices % count],
                low_res_of=lambda indices: low_res[indices % count],
                seed=self.seed,
                guidance=1.0,
                batch_size=self.batch_size or count,
            )
            return comparison_grid(np.asarray(to_uint8(low_res)), results, self.originals)

        return draw
