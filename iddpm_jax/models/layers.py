"""Building blocks of the UNet.

Axis letters: B batch, … 1 to 3 spatial axes, C channels, N positions, h heads; shapes.py says
those of signatures. Parameters, norms and softmax are float32; `dtype` is that of everything
between.
"""

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, Real

from iddpm_jax.models.shapes import Embeddings, Features, FeaturesLike, KeyLike

NUM_GROUPS = 32

# A function of the signature of `jax.lax.conv_general_dilated`, as flax's nn.Conv takes one.
ConvGeneralDilated = Callable[..., jax.Array]

# PyTorch's default for convolutions and linear layers: uniform on ±1/√fan_in, whose
# variance is 1/(3 fan_in).
kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def bias_init(fan_in: int) -> Callable[..., jax.Array]:
    """PyTorch's default for biases: uniform on ±1/√fan_in of the layer's kernel."""
    bound = 1 / math.sqrt(fan_in)

    def init(key: KeyLike, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def timestep_embedding(
    timesteps: Real[Array | np.ndarray, " b"], dim: int, max_period: float = 10_000.0
) -> Float32[Array, "b {dim}"]:
    """Sinusoids of geometrically spaced frequencies (DDPM, appendix B).

    Args:
      timesteps: may be fractional.
      dim: width of the embedding; where odd, the last entry is 0.

    Returns:
      Cosines, then sines.
    """
    half = dim // 2
    # Frequencies are constants, and an error in their last bit is multiplied by timesteps of
    # up to thousands. Exponents are float32, as the reference's, and exp is rounded once.
    exponents = np.float32(-math.log(max_period)) * np.arange(half, dtype=np.float32) / half
    frequencies = np.exp(exponents.astype(np.float64)).astype(np.float32)
    angles = timesteps.astype(jnp.float32)[:, None] * frequencies[None]
    embedding = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    return jnp.pad(embedding, ((0, 0), (0, dim % 2)))


def dense(
    x: Float[Array, "*batch c"],
    features: int,
    name: str,
    *,
    dtype: DTypeLike = jnp.float32,
    zero: bool = False,
) -> Float[Array, "*batch {features}"]:
    """A linear layer.

    Initialised as PyTorch does it, or with zeros where `zero`. `dtype` is that of the computation
    and the result; parameters are float32.
    """
    zeros = nn.initializers.zeros_init()
    return nn.Dense(
        features,
        dtype=dtype,
        kernel_init=zeros if zero else kernel_init,
        bias_init=zeros if zero else bias_init(x.shape[-1]),
        name=name,
    )(x)


def conv(
    x: Features,
    features: int,
    name: str,
    *,
    kernel_size: int = 3,
    strides: int | Sequence[int] = 1,
    dtype: DTypeLike = jnp.float32,
    zero: bool = False,
    conv_general_dilated: ConvGeneralDilated = jax.lax.conv_general_dilated,
) -> Float[Array, "b *new_spatial {features}"]:
    """A convolution over all spatial axes.

    Kernels of an odd size are centred, and what lies outside counts as 0. Initialised and computed
    as `dense`; `conv_general_dilated` is what computes it.
    """
    dims = x.ndim - 2
    zeros = nn.initializers.zeros_init()
    return nn.Conv(
        features,
        (kernel_size,) * dims,
        strides=strides,
        # Explicit, because SAME pads a strided convolution on one side only.
        padding=kernel_size // 2,
        dtype=dtype,
        kernel_init=zeros if zero else kernel_init,
        bias_init=zeros if zero else bias_init(x.shape[-1] * kernel_size**dims),
        conv_general_dilated=conv_general_dilated,
        name=name,
    )(x)


class GroupNorm(nn.Module):
    """Group normalisation (Wu & He 2018) over 32 groups in float32, returned in x's dtype."""

    @nn.compact
    def __call__(self, x: FeaturesLike) -> Features:
        channels = x.shape[-1]
        of_channel = (1,) * (x.ndim - 1) + (channels,)
        scale = self.param("scale", nn.initializers.ones, (channels,)).reshape(of_channel)
        bias = self.param("bias", nn.initializers.zeros, (channels,)).reshape(of_channel)
        y = jnp.asarray(x, jnp.float32)
        # Two passes, because E[x²] - E[x]² cancels in float32.
        y = y - _group_means(y)
        y = y * (jax.lax.rsqrt(_group_means(jnp.square(y)) + 1e-5) * scale) + bias
        return y.astype(x.dtype)


def _group_means(x: Features) -> Float[Array, "b *ones c"]:
    """Mean of each channel's group, `[B, 1, …, C]`.

    Groups are formed from the channels' means. To reduce over positions and a group's channels
    at once takes more than twice as long, because it is not vectorised over channels.
    """
    channels = x.shape[-1]
    means = x.mean(tuple(range(1, x.ndim - 1)), keepdims=True)
    groups = means.reshape(*means.shape[:-1], NUM_GROUPS, -1).mean(-1)
    return jnp.repeat(groups, channels // NUM_GROUPS, axis=-1)


class ResBlock(nn.Module):
    """Residual block, conditioned by scale and shift or by addition (IDDPM, appendix A).

    Attributes: those of `UNet`, and `features`, the channels of the output.
    """

    features: int
    dropout: float
    use_scale_shift_norm: bool
    dtype: DTypeLike
    conv_general_dilated: ConvGeneralDilated = jax.lax.conv_general_dilated

    @nn.compact
    def __call__(
        self, x: Features, emb: Embeddings, train: bool
    ) -> Float[Array, "b *spatial {self.features}"]:
        """`train` switches dropout on."""
        options = {"dtype": self.dtype, "conv_general_dilated": self.conv_general_dilated}
        h = nn.silu(GroupNorm(name="in_norm")(x))
        h = conv(h, self.features, "in_conv", **options)

        width = 2 * self.features if self.use_scale_shift_norm else self.features
        emb = dense(nn.silu(emb), width, "emb_proj").astype(h.dtype)
        emb = emb.reshape(emb.shape[:1] + (1,) * (x.ndim - 2) + emb.shape[1:])
        if self.use_scale_shift_norm:
            scale, shift = jnp.split(emb, 2, axis=-1)
            h = GroupNorm(name="out_norm")(h) * (1 + scale) + shift
        else:
            h = GroupNorm(name="out_norm")(h + emb)
        h = nn.Dropout(self.dropout, deterministic=not train)(nn.silu(h))
        h = conv(h, self.features, "out_conv", zero=True, **options)

        if x.shape[-1] != self.features:
            x = conv(x, self.features, "skip", kernel_size=1, **options)
        return x + h


class AttentionBlock(nn.Module):
    """Self-attention over all positions, with a residual connection."""

    num_heads: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Features) -> Features:
        batch, channels = x.shape[0], x.shape[-1]
        head_width = channels // self.num_heads
        h = GroupNorm(name="norm")(x).reshape(batch, -1, channels)
        qkv = dense(h, 3 * channels, "qkv", dtype=self.dtype)
        # The channels are ordered [head, q/k/v, channel], as in the published weights.
        qkv = qkv.reshape(batch, -1, self.num_heads, 3, head_width)
        q, k, v = qkv.transpose(3, 0, 2, 1, 4)  # Each [B, h, N, channels of a head].
        # Half of the scaling on each side keeps float16 products in range.
        scale = head_width**-0.25
        weights = (q * scale) @ (k * scale).swapaxes(2, 3)
        weights = nn.softmax(weights.astype(jnp.float32)).astype(weights.dtype)
        h = (weights @ v).swapaxes(1, 2).reshape(batch, -1, channels)
        h = dense(h, channels, "proj_out", dtype=self.dtype, zero=True)
        return x + h.reshape(x.shape)


def _resample_factors(dims: int) -> tuple[int, ...]:
    """Factor of each spatial axis; volumes keep their depth."""
    return (1, 2, 2) if dims == 3 else (2,) * dims


class Downsample(nn.Module):
    """Halves the spatial axes (of a volume, the last two), by convolution or averaging."""

    use_conv: bool
    dtype: DTypeLike
    conv_general_dilated: ConvGeneralDilated = jax.lax.conv_general_dilated

    @nn.compact
    def __call__(self, x: Features) -> Float[Array, "b *halved c"]:
        """A convolution rounds up, averaging down."""
        factors = _resample_factors(x.ndim - 2)
        if not self.use_conv:
            with jax.numpy_dtype_promotion("standard"):  # Flax divides by an int.
                return nn.avg_pool(x, factors, strides=factors)
        return conv(
            x,
            x.shape[-1],
            "conv",
            strides=factors,
            dtype=self.dtype,
            conv_general_dilated=self.conv_general_dilated,
        )


class Upsample(nn.Module):
    """Doubles the spatial axes (of a volume, the last two) by repetition, then may convolve."""

    use_conv: bool
    dtype: DTypeLike
    conv_general_dilated: ConvGeneralDilated = jax.lax.conv_general_dilated

    @nn.compact
    def __call__(self, x: Features, shape: Sequence[int]) -> Float[Array, "b *doubled c"]:
        """`[B, h, …, C]` to `[B, H, …, C]`, with the spatial axes of `shape` `[B, H, …, any]`.

        H is 2h, or 2h - 1 where the size before down-sampling was odd: the result is cut to that,
        which is nearest-neighbour interpolation to it.
        """
        for axis, factor in enumerate(_resample_factors(x.ndim - 2), start=1):
            x = jnp.repeat(x, factor, axis=axis)
        x = x[(slice(None), *map(slice, shape[1:-1]))]
        if not self.use_conv:
            return x
        return conv(
            x,
            x.shape[-1],
            "conv",
            dtype=self.dtype,
            conv_general_dilated=self.conv_general_dilated,
        )
