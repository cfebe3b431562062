"""Pictures of super-resolution: what was given, what is made of it, and what it was.

Axis letters: N images, H W large, h w small, C channels.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from iddpm_jax.files.pictures import make_grid


def bilinear(
    low_res: UInt8[np.ndarray, "N h w c"], size: int
) -> UInt8[np.ndarray, "N {size} {size} c"]:
    """Up-samples images, half-pixel centres."""
    shape = (len(low_res), size, size, low_res.shape[-1])
    return (
        np.asarray(jax.image.resize(jnp.asarray(low_res, jnp.float32), shape, "bilinear"))
        .round()
        .astype(np.uint8)
    )


def comparison_grid(
    low_res: UInt8[np.ndarray, "N h w c"],
    results: UInt8[np.ndarray, "N H W c"],
    originals: UInt8[np.ndarray, "N H W c"] | None = None,
) -> UInt8[np.ndarray, "height width 3"]:
    """Low resolution, bilinear, result and, if there is one, the original, side by side.

    There are several such groups in a row.
    """
    size = results.shape[1]
    nearest = (np.arange(size) * low_res.shape[1]) // size
    shown = [low_res[:, nearest][:, :, nearest], bilinear(low_res, size), results]
    shown += [] if originals is None else [originals]
    groups = max(1, round(math.sqrt(len(results) / len(shown))))
    blank = np.full((-len(results) % groups, *results.shape[1:]), 255, np.uint8)
    cells = np.stack([np.concatenate([images, blank]) for images in shown], axis=1)
    return make_grid(cells.reshape(-1, *results.shape[1:]), groups * len(shown))
