"""The UNet of improved diffusion, and its super-resolution form.

Axis letters: B batch, H W C image (1-D and 3-D signals alike), E embedding width.

Blocks are numbered as in the reference, so that its parameters map one to one:
`down_0` is the first convolution; `down_i` a residual block with optional attention, or a
down-sampling; `mid` the bottleneck; `up_i` mirrors `down_i` and takes its output.
"""

from collections.abc import Iterator, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from iddpm_jax.errors import UsageError
from iddpm_jax.models.layers import (
    NUM_GROUPS,
    AttentionBlock,
    Downsample,
    GroupNorm,
    ResBlock,
    Upsample,
    conv,
    dense,
    timestep_embedding,
)
from iddpm_jax.models.resize import upsample_bilinear


class UNet(nn.Module):
    """UNet with timestep and class conditioning (Nichol & Dhariwal 2021, appendix A).

    Attributes:
      model_channels: channels at full resolution, a multiple of 32.
      out_channels: channels of the output; twice the image's where the variance is learned.
      num_res_blocks: residual blocks per resolution.
      attention_resolutions: down-sampling factors (1, 2, 4, …) at which blocks attend.
      dropout: rate inside residual blocks.
      channel_mult: factor on model_channels for each resolution.
      conv_resample: resample by learned convolutions instead of pooling and repetition.
      dims: number of spatial axes, 1 to 3.
      num_classes: number of classes, or None for an unconditional network.
      use_checkpoint: compute activations again in the backward pass to save memory.
      num_heads, num_heads_upsample: attention heads; the latter on the way up, -1: alike.
      use_scale_shift_norm: condition by scale and shift instead of addition.
      dtype: compute dtype of the torso: float32, bfloat16 or float16.
      in_channels: channels of the input.
      winograd: convolve by Winograd's algorithm where it fits: the fastest way on one CPU device.
    """

    model_channels: int
    out_channels: int
    num_res_blocks: int
    attention_resolutions: Sequence[int]
    dropout: float = 0.0
    channel_mult: Sequence[int] = (1, 2, 4, 8)
    conv_resample: bool = True
    dims: int = 2
    num_classes: int | None = None
    use_checkpoint: bool = False
    num_heads: int = 1
    num_heads_upsample: int = -1
    use_scale_shift_norm: bool = False
    dtype: jnp.dtype = jnp.float32
    in_channels: int = 3
    winograd: bool = False

    def __post_init__(self):
        super().__post_init__()
        _check_architecture(self)

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        timesteps: jax.Array,
        y: jax.Array | None = None,
        low_res: jax.Array | None = None,
        train: bool = False,
        return_features: bool = False,
    ):
        """Applies the network.

        Args:
          x: `[B, H, W, in_channels]`; `feature_sizes` says which sizes are possible.
          timesteps: `[B]`, int or float.
          y: class labels, int32 `[B]`, where the network is class-conditional.
          low_res: for `SuperResUNet` only.
          train: apply dropout; needs a `dropout` random key.
          return_features: also return the intermediate activations.

        Returns:
          `[B, H, W, out_channels]` in x's dtype; with return_features a pair of that and a
          dict of `down` (list), `middle` and `up` (list).

        Raises:
          UsageError: inputs that do not fit the architecture.
        """
        if low_res is not None:
            raise UsageError("UNet takes no low_res input; use SuperResUNet")
        return self.torso(x, timesteps, y, train, return_features)

    def init_params(self, key: jax.Array) -> dict:
        """New parameters. They do not depend on the size of the images."""
        factor = 2 ** (len(self.channel_mult) - 1)
        x = jnp.zeros((1,) + (factor,) * self.dims + (self.in_channels,))
        y = jnp.zeros(1, jnp.int32) if self.num_classes else None
        low_res = x if isinstance(self, SuperResUNet) else None
        return self.init(key, x, jnp.zeros(1), y, low_res)["params"]

    def torso(self, x, timesteps, y, train, return_features):
        """The whole network, on an input that is already complete."""
        _check_inputs(self, x, timesteps, y)
        out_dtype = x.dtype
        emb = self._embedding(timesteps, y)

        h = conv(x.astype(self.dtype), self.model_channels, "down_0_conv", dtype=self.dtype)
        down = [h]
        for i, (kind, channels, attends) in enumerate(self._down_plan(), start=1):
            if kind == "resample":
                h = Downsample(self.conv_resample, self.dtype, name=f"down_{i}_downsample")(h)
            else:
                h = self._res_block(h, emb, channels, train, f"down_{i}_res")
                h = self._attend(h, self.num_heads, f"down_{i}_attn") if attends else h
            down.append(h)

        channels = h.shape[-1]
        h = self._res_block(h, emb, channels, train, "mid_0_res")
        h = self._attend(h, self.num_heads, "mid_1_attn")
        middle = h = self._res_block(h, emb, channels, train, "mid_2_res")

        heads = self.num_heads if self.num_heads_upsample == -1 else self.num_heads_upsample
        up, skips = [], list(down)
        for i, (channels, attends, upsamples) in enumerate(self._up_plan()):
            h = jnp.concatenate([h, skips.pop()], axis=-1)
            h = self._res_block(h, emb, channels, train, f"up_{i}_res")
            h = self._attend(h, heads, f"up_{i}_attn") if attends else h
            if upsamples:
                upsample = Upsample(
                    self.conv_resample, self.dtype, self.winograd, name=f"up_{i}_upsample"
                )
                h = upsample(h, skips[-1].shape)
            up.append(h)

        # The head runs in the input's precision, whatever that of the torso.
        h = nn.silu(GroupNorm(name="out_norm")(h.astype(out_dtype)))
        out = conv(h, self.out_channels, "out_conv", dtype=out_dtype, zero=True)
        if not return_features:
            return out
        features = {"down": down, "middle": middle, "up": up}
        return out, jax.tree.map(lambda a: a.astype(out_dtype), features)

    def _embedding(self, timesteps, y) -> jax.Array:
        """float32 `[B, E]`, E = 4 model_channels."""
        width = 4 * self.model_channels
        emb = dense(timestep_embedding(timesteps, self.model_channels), width, "time_embed_0")
        emb = dense(nn.silu(emb), width, "time_embed_2")
        if self.num_classes:
            normal = nn.initializers.normal(1.0)
            emb += nn.Embed(self.num_classes, width, embedding_init=normal, name="label_emb")(y)
        return emb

    def _res_block(self, x, emb, channels, train, name):
        block = nn.remat(ResBlock, static_argnums=(3,)) if self.use_checkpoint else ResBlock
        conditioning = self.use_scale_shift_norm
        options = (channels, self.dropout, conditioning, self.dtype, self.winograd)
        return block(*options, name=name)(x, emb, train)

    def _attend(self, x, heads, name):
        block = nn.remat(AttentionBlock) if self.use_checkpoint else AttentionBlock
        return block(heads, self.dtype, name=name)(x)

    def _down_plan(self) -> Iterator[tuple[str, int, bool]]:
        """(kind, output channels, attends) of `down_1`, `down_2`, …"""
        for level, mult in enumerate(self.channel_mult):
            channels = mult * self.model_channels
            attends = 2**level in self.attention_resolutions
            for _ in range(self.num_res_blocks):
                yield "res", channels, attends
            if level != len(self.channel_mult) - 1:
                yield "resample", channels, False

    def _up_plan(self) -> Iterator[tuple[int, bool, bool]]:
        """(output channels, attends, up-samples afterwards) of `up_0`, `up_1`, …"""
        for level, mult in reversed(list(enumerate(self.channel_mult))):
            attends = 2**level in self.attention_resolutions
            for i in range(self.num_res_blocks + 1):
                upsamples = level > 0 and i == self.num_res_blocks
                yield mult * self.model_channels, attends, upsamples


class SuperResUNet(UNet):
    """A UNet that sees a low-resolution image beside its input (IDDPM, section 5)."""

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        timesteps: jax.Array,
        y: jax.Array | None = None,
        low_res: jax.Array | None = None,
        train: bool = False,
        return_features: bool = False,
    ):
        """As `UNet.__call__`; `low_res` `[B, h, w, in_channels]` is up-sampled bilinearly."""
        if low_res is None:
            raise UsageError("SuperResUNet needs a low_res input")
        if low_res.shape[0] != x.shape[0] or low_res.shape[-1] != x.shape[-1]:
            raise UsageError(
                f"low_res of shape {low_res.shape} does not fit an input of shape {x.shape}: "
                "batch and channels must be alike"
            )
        upsampled = upsample_bilinear(low_res, x.shape)
        return self.torso(
            jnp.concatenate([x, upsampled.astype(x.dtype)], axis=-1),
            timesteps,
            y,
            train,
            return_features,
        )


def abstract_params(model: UNet) -> dict:
    """The parameter tree of `model` as shapes and dtypes, without computing anything."""
    return jax.eval_shape(lambda: model.init_params(jax.random.key(0)))


def feature_sizes(size: int, resolutions: int, conv_resample: bool) -> list[int]:
    """Sizes of the feature maps of an image, from its own to the smallest.

    Each is half of the one before. Halves of odd sizes are rounded up; the way up ends at the odd
    size again. The reference takes no such sizes.

    Raises:
      UsageError: there is nothing left to halve, or an odd size is to be halved by pooling.
    """
    sizes = [size]
    for _ in range(resolutions - 1):
        if sizes[-1] == 1:
            raise UsageError(
                f"a size of {size} is too small for {resolutions} resolutions: its feature maps "
                f"are {sizes} wide"
            )
        if sizes[-1] % 2 and not conv_resample:
            raise UsageError(
                f"a size of {size} has feature maps of {sizes}, of which the last cannot be halved "
                "by pooling: use conv_resample=True"
            )
        sizes.append(-(-sizes[-1] // 2))
    return sizes


def _check_architecture(model: UNet) -> None:
    """Raises UsageError, naming the values, for an architecture that cannot be built."""
    if not 1 <= model.dims <= 3:
        raise UsageError(f"dims={model.dims}: signals may have 1, 2 or 3 spatial axes")
    if not model.channel_mult:
        raise UsageError("channel_mult is empty: give one factor for each resolution")
    heads = {"num_heads": model.num_heads}
    if model.num_heads_upsample != -1:
        heads["num_heads_upsample"] = model.num_heads_upsample
    factors = [2**level for level in range(len(model.channel_mult))]
    for factor, mult in zip(factors, model.channel_mult, strict=True):
        channels = mult * model.model_channels
        if channels < 1 or channels % NUM_GROUPS:
            raise UsageError(
                f"num_channels={model.model_channels} times channel_mult={mult} gives {channels} "
                f"channels, which the {NUM_GROUPS} groups of GroupNorm do not divide"
            )
        # The bottleneck attends whatever attention_resolutions says.
        if factor in model.attention_resolutions or factor == factors[-1]:
            for name, value in heads.items():
                if value < 1 or channels % value:
                    raise UsageError(f"{name}={value} does not divide {channels} channels")
    unreached = sorted(set(model.attention_resolutions) - set(factors))
    if unreached:
        raise UsageError(
            f"attention at down-sampling {unreached} is never reached: a network with "
            f"{len(factors)} resolutions down-samples by {factors}"
        )
    if not 0 <= model.dropout < 1:
        raise UsageError(f"dropout={model.dropout} must be in [0, 1)")


def _check_inputs(model: UNet, x, timesteps, y) -> None:
    if x.ndim != model.dims + 2:
        raise UsageError(f"an input of shape {x.shape} does not have {model.dims} spatial axes")
    channels = model.in_channels * (2 if isinstance(model, SuperResUNet) else 1)
    if x.shape[-1] != channels:
        raise UsageError(f"an input of shape {x.shape} does not have {channels} channels")
    for size in x.shape[2:-1] if model.dims == 3 else x.shape[1:-1]:
        feature_sizes(size, len(model.channel_mult), model.conv_resample)
    if (y is not None) != bool(model.num_classes):
        raise UsageError(
            f"num_classes={model.num_classes}, but labels y were {'not ' * (y is None)}given"
        )
    for name, value in {"timesteps": timesteps, "y": y}.items():
        if value is not None and value.shape != x.shape[:1]:
            raise UsageError(f"{name} has shape {value.shape}, expected {x.shape[:1]}")
