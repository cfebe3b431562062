import math

import jax
import numpy as np
import pytest

from iddpm_jax.models.layers import timestep_embedding


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_timestep_embedding_is_as_exact_as_float32_angles_at_all_timesteps(scale):
    t = np.arange(4000) * scale
    # An angle near 4000 is rounded by up to 1.2e-4; the rest is the last bits of frequencies.
    limit = 2.7e-4 * scale
    for width in (64, 96, 128, 160, 192, 256, 320, 384, 512):
        half = width // 2
        angles = t[:, None] * np.exp(-math.log(10_000) * np.arange(half) / half)
        exact = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
        actual = jax.jit(timestep_embedding, static_argnums=1)(t.astype(np.float32), width)
        assert np.abs(actual - exact).max() <= limit, width
