"""From images to the low-resolution input of a super-resolution model, and back to their size.

Axis letters: B batch, H W large, h w small, C channels.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


def area_downsample(images: jax.Array | np.ndarray, size: int) -> jax.Array:
    """Shrinks images by means over areas: `[B, H, W, C]` to float32 `[B, size, size, C]`.

    As torch's `interpolate(mode="area")`: pixel i of the result is the mean of the rows (and
    columns) from ⌊i · H / h⌋ to ⌈(i + 1) · H / h⌉, which overlap where h does not divide H.
    """
    rows, columns = (jnp.asarray(_area_weights(n, size)) for n in images.shape[1:3])
    exact = jax.lax.Precision.HIGHEST
    return jnp.einsum("hH,bHWc,wW->bhwc", rows, images, columns, precision=exact)


def _area_weights(large: int, small: int) -> np.ndarray:
    """The share of each of `large` pixels in each of `small`, float32 `[small, large]`."""
    i = np.arange(small)[:, None]
    first, last = i * large // small, -(-(i + 1) * large // small)
    pixel = np.arange(large)
    inside = (first <= pixel) & (pixel < last)
    return (inside / (last - first)).astype(np.float32)


def upsample_bilinear(images: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Enlarges images `[B, h, w, C]` to `shape` `[B, H, W, C]`.

    Half-pixel centres and clamped edges, as torch's bilinear with align_corners=False.
    """
    # For up-sampling, antialiasing makes no difference.
    return jax.image.resize(images, shape, "bilinear", antialias=False)


class LowRes(NamedTuple):
    """Makes the low-resolution input of a super-resolution model from images.

    Attributes:
      size: h and w, in pixels.
      noise: standard deviation of the Gaussian noise that is added, so that the model does not
        rely on details that a base model's samples have wrong (conditioning augmentation, Ho et
        al. 2022, section 4.2); 0 for none.
    """

    size: int
    noise: float = 0.0

    def __call__(self, images: jax.Array | np.ndarray, keys: jax.Array) -> jax.Array:
        """Shrinks images `[B, H, W, C]` in [-1, 1] to `[B, h, w, C]` and adds the noise.

        `keys` `[B]` draw the noise of each image.
        """
        return self.augment(area_downsample(images, self.size), keys)

    def augment(self, low_res: jax.Array | np.ndarray, keys: jax.Array) -> jax.Array:
        """Adds the noise to images `[B, h, w, C]` in [-1, 1]; `keys` `[B]` draw that of each."""
        low_res = jnp.asarray(low_res)
        if not self.noise:
            return low_res
        draw = jax.vmap(lambda key: jax.random.normal(key, low_res.shape[1:]))
        return low_res + self.noise * draw(keys)
