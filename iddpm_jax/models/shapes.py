"""The shapes that the signatures of this package name; the tests check them.

b images of a batch, spatial the axes between (H and W, for pictures), c channels, e the width of
an embedding. In one call a letter stands for one number wherever it is. As with JAX's own
functions, arguments may be arrays of JAX or of NumPy (`…Like`) where anyone but the network gives
them, and results are JAX's.
"""

import numpy as np
from jaxtyping import Array, Float, Key, UInt32

# Images, and the activations of a layer.
Features = Float[Array, "b *spatial c"]
FeaturesLike = Float[Array | np.ndarray, "b *spatial c"]
# What the timestep and the class say to every residual block.
Embeddings = Float[Array, "b e"]
# One key, and one for each image; raw ones (`PRNGKey`), too.
KeyLike = Key[Array, ""] | UInt32[Array, " 2"]
KeysLike = Key[Array, " b"] | UInt32[Array, "b 2"]
