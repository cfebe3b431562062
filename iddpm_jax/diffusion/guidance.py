"""Classifier-free guidance (Ho & Salimans 2022): two calls of the network make one output.

Axis letters: B batch, H W C image.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from iddpm_jax.diffusion.shapes import Images, ModelFn, Outputs, PerImage

Weight = Float[Array, ""] | float


def classifier_free_guidance(
    conditional: Float[Array | np.ndarray, "*batch outputs"],
    unconditional: Float[Array | np.ndarray, "*batch outputs"],
    weight: Weight,
    channels: int,
) -> Float[Array, "*batch outputs"]:
    """ε_c + (w - 1)(ε_c - ε_u) (Ho & Salimans 2022, eq. 6 with w for 1 + w).

    w = 1 gives the conditional output bit for bit. A variance half is the conditional's.

    Args:
      conditional, unconditional: outputs of the network, with or without a variance half.
      weight: w.
      channels: C, the first of which are guided.
    """
    mean_c, mean_u = conditional[..., :channels], unconditional[..., :channels]
    mean = mean_c + (weight - 1) * (mean_c - mean_u)
    return jnp.concatenate([mean, conditional[..., channels:]], axis=-1)


def guided_model_fn(conditional: ModelFn, unconditional: ModelFn, weight: Weight) -> ModelFn:
    """One model_fn that calls two: with what is wanted, such as a label, and without."""

    def model_fn(x_t: Images, timestep: PerImage) -> Outputs:
        with_label, without = conditional(x_t, timestep), unconditional(x_t, timestep)
        return classifier_free_guidance(with_label, without, weight, x_t.shape[-1])

    return model_fn
