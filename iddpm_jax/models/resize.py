"""From images to the low-resolution input of a super-resolution model, and back to their size."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from iddpm_jax.models.shapes import Features, FeaturesLike, KeysLike


def area_downsample(
    images: Float[Array | np.ndarray, "b H W c"], size: int
) -> Float32[Array, "b {size} {size} c"]:
    """Shrinks images by means over areas.

    As torch's `interpolate(mode="area")`: pixel i of the result is the mean of the rows (and
    columns) from ⌊i · H / h⌋ to ⌈(i + 1) · H / h⌉, which overlap where h does not divide H.
    """
    rows, columns = (jnp.asarray(_area_weights(n, size)) for n in images.shape[1:3])
    exact = jax.lax.Precision.HIGHEST
    return jnp.einsum("hH,bHWc,wW->bhwc", rows, images, columns, precision=exact)


def _area_weights(large: int, small: int) -> Float32[np.ndarray, "{small} {large}"]:
    """The share of each of `large` pixels in each of `small`."""
    i = np.arange(small)[:, None]
    first, last = i * large // small, -(-(i + 1) * large // small)
    pixel = np.arange(large)
    inside = (first <= pixel) & (pixel < last)
    return (inside / (last - first)).astype(np.float32)


def upsample_bilinear(
    images: Float[Array | np.ndarray, "b *small c"], shape: tuple[int, ...]
) -> Float[Array, "b *large c"]:
    """Enlarges images to `shape`, batch and channels included.

    Half-pixel centres and clamped edges, as torch's bilinear with align_corners=False.
    """
    # For up-sampling, antialiasing makes no difference.
    return jax.image.resize(images, shape, "bilinear", antialias=False)


class LowRes(NamedTuple):
    """Makes the low-resolution input of a super-resolution model from images.

    Attributes:
      size: height and width of the result, in pixels.
      noise: standard deviation of the Gaussian noise that is added, so that the model does not
        rely on details that a base model's samples have wrong (conditioning augmentation, Ho et
        al. 2022, section 4.2); 0 for none.
    """

    size: int
    noise: float = 0.0

    def __call__(
        self, images: Float[Array | np.ndarray, "b H W c"], keys: KeysLike
    ) -> Float[Array, "b {self.size} {self.size} c"]:
        """Shrinks images in [-1, 1] and adds the noise; `keys` draw that of each."""
        return self.augment(area_downsample(images, self.size), keys)

    def augment(self, low_res: FeaturesLike, keys: KeysLike) -> Features:
        """Adds the noise to images in [-1, 1]; `keys` draw that of each."""
        low_res = jnp.asarray(low_res)
        if not self.noise:
            return low_res
        draw = jax.vmap(lambda key: jax.random.normal(key, low_res.shape[1:]))
        return low_res + self.noise * draw(keys)
