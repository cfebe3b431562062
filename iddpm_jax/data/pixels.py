"""Pixels: 0 … 255 at the edges, [-1, 1] for networks and processes."""

import jax
import jax.numpy as jnp


def to_uint8(x: jax.Array) -> jax.Array:
    """[-1, 1] to 0 … 255 as the reference does it: scaled, clipped, cut off."""
    return jnp.clip((x + 1) * 127.5, 0, 255).astype(jnp.uint8)
