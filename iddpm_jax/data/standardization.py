"""Standardised images: those in [-1, 1] brought to mean 0 and variance 1 for the process.

Axis letters: N images, H W C image.
"""

import functools
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from iddpm_jax.data.pixels import to_uint8
from iddpm_jax.errors import UsageError


class Standardization(NamedTuple):
    """Subtracts a data set's mean and divides by its standard deviation, channel by channel.

    mean, std: a number for each channel, or one for all; of images in [-1, 1]. By default nothing
      changes.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    @property
    def changes(self) -> bool:
        return any(self.mean) or any(s != 1 for s in self.std)

    @property
    def clip_denoised(self) -> bool:
        """Whether a predicted x_0 is clipped to [-1, 1], beyond which standardised images go."""
        return not self.changes

    def __call__(self, images: jax.Array) -> jax.Array:
        """Images `[…, C]` in [-1, 1] to mean 0 and variance 1."""
        if not self.changes:
            return images
        mean, std = self._for_axes(images.ndim)
        return (images - mean) / std

    def restore(self, x: jax.Array) -> jax.Array:
        """The inverse: standardised images to images in [-1, 1]."""
        if not self.changes:
            return x
        mean, std = self._for_axes(x.ndim)
        return x * std + mean

    def _for_axes(self, count: int) -> tuple[jax.Array, jax.Array]:
        """Mean and standard deviation, of so many axes that they broadcast without promotion."""
        shape = (1,) * (count - 1) + (-1,)
        return jnp.asarray(self.mean).reshape(shape), jnp.asarray(self.std).reshape(shape)

    def to_uint8(self, x: jax.Array) -> jax.Array:
        """Standardised images to uint8."""
        return to_uint8(self.restore(x))


UNCHANGED = Standardization()


def measure(batches: Iterable[np.ndarray]) -> Standardization:
    """Measures mean and standard deviation of images, uint8 `[N, H, W, C]` each, to 5 decimals.

    Raises:
      UsageError: a channel is the same everywhere.
    """
    # Of each channel, how often each of the 256 values occurs.
    counts = functools.reduce(
        np.add,
        (
            np.stack([np.bincount(x.ravel(), minlength=256) for x in np.moveaxis(b, -1, 0)])
            for b in batches
        ),
    )
    share = counts / counts.sum(axis=1, keepdims=True)
    values = np.arange(256) / 127.5 - 1
    mean = share @ values
    std = np.sqrt((share * np.square(values - mean[:, None])).sum(axis=1)).round(5)
    if not std.all():
        raise UsageError(
            f"channel {int(np.argmin(std))} of the images is the same everywhere, which cannot be "
            "standardised"
        )
    return Standardization(tuple(mean.round(5).tolist()), tuple(std.tolist()))
