"""Pictures of super-resolution: what was given, what is made of it, and what it was.

Axis letters: N images, H W large, h w small, C channels.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from iddpm_jax.files.pictures import make_grid


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
