"""The shapes that the signatures of this package name; the tests check them.

b images of a batch, spatial the axes between (H and W, for pictures), c channels, T diffusion
steps. In one call a letter stands for one number wherever it is. As with JAX's own functions,
arguments may be arrays of JAX or of NumPy (`…Like`), and results are JAX's.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Array, Float, Float64, Int, Key, UInt32

Betas = Float64[np.ndarray, " T"]
# Timesteps of the full process that a shorter one keeps, K of them.
KeptSteps = Int[np.ndarray, " K"]

Images = Float[Array, "b *spatial c"]
ImagesLike = Float[Array | np.ndarray, "b *spatial c"]
# What a network returns: c channels, or 2c where it predicts the variance, too.
Outputs = Float[Array, "b *spatial outputs"]
OutputsLike = Float[Array | np.ndarray, "b *spatial outputs"]
# t, from 0, next to the data, to T - 1: t - 1 in the papers.
Steps = Int[Array, " b"]
StepsLike = Int[Array | np.ndarray, " b"]
PerImage = Float[Array, " b"]
PerImageLike = Float[Array | np.ndarray, " b"]
PerStep = Float[Array, " T"]
Keys = Key[Array, " b"]
# One key, from which those of the images are derived, or theirs; raw ones (`PRNGKey`), too.
KeysLike = Key[Array, "*keys"] | UInt32[Array, "*keys 2"]

# (x_t, timestep) -> output, closing over parameters, labels and whatever else the network sees.
ModelFn = Callable[[Images, PerImage], Outputs]
# x_0 -> x_0, before it is clipped.
DenoisedFn = Callable[[Images], Images]
