"""The UNet of improved diffusion, and its super-resolution form.

Blocks are numbered as in the reference, so that its parameters map one to one:
`down_0` is the first convolution; `down_i` a residual block with optional attention, or a
down-sampling; `mid` the bottleneck; `up_i` mirrors `down_i` and takes its output.
"""

from collections.abc import Sequence
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, Int, Real

from iddpm_jax.errors import UsageError
from iddpm_jax.models.layers import (
    AttentionBlock,
    ConvGeneralDilated,
    Downsample,
    GroupNorm,
    ResBlock,
    Upsample,
    conv,
    dense,
    timestep_embedding,
)
from iddpm_jax.models.network import TrainableNetwork
from iddpm_jax.models.resize import upsample_bilinear
from iddpm_jax.models.shapes import Embeddings, Features, FeaturesLike, KeyLike
from iddpm_jax.models.unet_checks import check_architecture, feature_sizes

Timesteps = Real[Array | np.ndarray, " b"]
Labels = Int[Array | np.ndarray, " b"]
LowResLike = Float[Array | np.ndarray, "b *small c"]
Output = Float[Array, "b *spatial {self.out_channels}"]


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
      num_heads: attention heads.
      num_heads_upsample: attention heads on the way up; -1 for as many as elsewhere.
      use_scale_shift_norm: condition by scale and shift instead of addition.
      dtype: compute dtype of the torso: float32, bfloat16 or float16.
      in_channels: channels of the image.
      conv_general_dilated: the convolution that all layers call, of the signature of
        `jax.lax.conv_general_dilated`. It is a module-level function, so that equal networks
        are equal and have one hash.

    Raises:
      UsageError: such a network cannot be built.
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
    dtype: DTypeLike = jnp.float32
    in_channels: int = 3
    conv_general_dilated: ConvGeneralDilated = jax.lax.conv_general_dilated

    def __post_init__(self) -> None:
        super().__post_init__()
        heads = {"num_heads": self.num_heads}
        if self.num_heads_upsample != -1:
            heads["num_heads_upsample"] = self.num_heads_upsample
        check_architecture(
            dims=self.dims,
            model_channels=self.model_channels,
            channel_mult=self.channel_mult,
            attention_resolutions=self.attention_resolutions,
            heads=heads,
            dropout=self.dropout,
        )

    @nn.compact
    def __call__(
        self,
        x: FeaturesLike,
        timesteps: Timesteps,
        y: Labels | None = None,
        low_res: LowResLike | None = None,
        train: bool = False,
        return_features: bool = False,
    ) -> Output | tuple[Output, dict[str, Any]]:
        """Applies the network.

        Args:
          x: images of `in_channels` channels; `feature_sizes` says which sizes are possible.
          timesteps: whole or fractional.
          y: class labels, where the network is class-conditional.
          low_res: smaller images, for `SuperResUNet` only.
          train: apply dropout; needs a `dropout` random key.
          return_features: also return the intermediate activations.

        Returns:
          What the network predicts, in x's dtype; with return_features a pair of that and a
          dict of `down` (list), `middle` and `up` (list).

        Raises:
          UsageError: inputs that do not fit the architecture.
        """
        self._check_inputs(x, timesteps, y)
        h = jnp.asarray(self._with_low_res(x, low_res).astype(self.dtype))
        emb = self._embedding(timesteps, y)
        down = self._down_blocks(h, emb, train)
        middle = self._middle_block(down[-1], emb, train)
        up = self._up_blocks(middle, down, emb, train)
        # The head runs in the input's precision, whatever that of the torso.
        h = nn.silu(GroupNorm(name="out_norm")(up[-1].astype(x.dtype)))
        out = self._conv(h, self.out_channels, "out_conv", dtype=x.dtype, zero=True)
        if not return_features:
            return out
        features = {"down": down, "middle": middle, "up": up}
        return out, jax.tree.map(lambda a: a.astype(x.dtype), features)

    def init_params(self, key: KeyLike) -> dict[str, Any]:
        """New parameters. They do not depend on the size of the images."""
        # No FrozenDict: flax_return_frozendict is off.
        return cast(dict, self.init(key, **self._smallest_inputs())["params"])

    def _smallest_inputs(self) -> dict[str, Any]:
        """Arguments of `__call__`, zeros: one example of the smallest size for any such network."""
        size = 2 ** (len(self.channel_mult) - 1)
        inputs = {
            "x": jnp.zeros((1, *(size,) * self.dims, self.in_channels)),
            "timesteps": jnp.zeros(1),
        }
        if self.num_classes:
            inputs["y"] = jnp.zeros(1, jnp.int32)
        return inputs

    def _with_low_res(self, x: FeaturesLike, low_res: LowResLike | None) -> FeaturesLike:
        """What the first convolution sees."""
        if low_res is not None:
            raise UsageError("UNet takes no low_res input; use SuperResUNet")
        return x

    def _embedding(
        self, timesteps: Timesteps, y: Labels | None
    ) -> Float32[Array, "b {4*self.model_channels}"]:
        """The sum of what is learned about the timesteps and the classes."""
        width = 4 * self.model_channels
        emb = dense(timestep_embedding(timesteps, self.model_channels), width, "time_embed_0")
        emb = dense(nn.silu(emb), width, "time_embed_2")
        if self.num_classes:
            normal = nn.initializers.normal(1.0)
            emb += nn.Embed(self.num_classes, width, embedding_init=normal, name="label_emb")(y)
        return emb

    def _levels(self) -> list[tuple[int, bool]]:
        """(channels, whether blocks attend) of every resolution, from the image's own down."""
        return [
            (mult * self.model_channels, 2**level in self.attention_resolutions)
            for level, mult in enumerate(self.channel_mult)
        ]

    def _down_blocks(self, h: Features, emb: Embeddings, train: bool) -> list[jax.Array]:
        """The outputs of `down_0`, `down_1`, …"""
        outputs = [self._conv(h, self.model_channels, "down_0_conv", dtype=self.dtype)]
        for level, (channels, attends) in enumerate(self._levels()):
            if level:
                name = f"down_{len(outputs)}_downsample"
                outputs.append(self._resampling(Downsample, name)(outputs[-1]))
            for _ in range(self.num_res_blocks):
                name = f"down_{len(outputs)}"
                h = self._res_block(outputs[-1], emb, channels, train, f"{name}_res")
                outputs.append(self._attend(h, self.num_heads, f"{name}_attn") if attends else h)
        return outputs

    def _middle_block(self, h: Features, emb: Embeddings, train: bool) -> Features:
        channels = h.shape[-1]
        h = self._res_block(h, emb, channels, train, "mid_0_res")
        h = self._attend(h, self.num_heads, "mid_1_attn")
        return self._res_block(h, emb, channels, train, "mid_2_res")

    def _up_blocks(
        self, h: Features, down: Sequence[jax.Array], emb: Embeddings, train: bool
    ) -> list[jax.Array]:
        """The outputs of `up_0`, `up_1`, …; each takes one of the outputs on the way down, too."""
        heads = self.num_heads if self.num_heads_upsample == -1 else self.num_heads_upsample
        outputs, skips = [], list(down)
        for level, (channels, attends) in reversed(list(enumerate(self._levels()))):
            for i in range(self.num_res_blocks + 1):
                name = f"up_{len(outputs)}"
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = self._res_block(h, emb, channels, train, f"{name}_res")
                h = self._attend(h, heads, f"{name}_attn") if attends else h
                if level and i == self.num_res_blocks:
                    h = self._resampling(Upsample, f"{name}_upsample")(h, skips[-1].shape)
                outputs.append(h)
        return outputs

    def _conv(self, h: jax.Array, features: int, name: str, **options: Any) -> jax.Array:
        return conv(h, features, name, conv_general_dilated=self.conv_general_dilated, **options)

    def _res_block(
        self, h: Features, emb: Embeddings, channels: int, train: bool, name: str
    ) -> Float[Array, "b *spatial {channels}"]:
        block = nn.remat(ResBlock, static_argnums=(3,)) if self.use_checkpoint else ResBlock
        return block(
            channels,
            self.dropout,
            self.use_scale_shift_norm,
            self.dtype,
            self.conv_general_dilated,
            name=name,
        )(h, emb, train)

    def _attend(self, h: Features, heads: int, name: str) -> Features:
        block = nn.remat(AttentionBlock) if self.use_checkpoint else AttentionBlock
        return block(heads, self.dtype, name=name)(h)

    def _resampling(self, layer: type[nn.Module], name: str) -> nn.Module:
        return layer(self.conv_resample, self.dtype, self.conv_general_dilated, name=name)

    def _check_inputs(self, x: FeaturesLike, timesteps: Timesteps, y: Labels | None) -> None:
        if x.ndim != self.dims + 2:
            raise UsageError(f"an input of shape {x.shape} does not have {self.dims} spatial axes")
        if x.shape[-1] != self.in_channels:
            raise UsageError(
                f"an input of shape {x.shape} does not have {self.in_channels} channels"
            )
        # Volumes keep their depth.
        for size in x.shape[2:-1] if self.dims == 3 else x.shape[1:-1]:
            feature_sizes(size, len(self.channel_mult), self.conv_resample)
        if (y is not None) != bool(self.num_classes):
            raise UsageError(
                f"num_classes={self.num_classes}, but labels y were {'not ' * (y is None)}given"
            )
        for name, value in {"timesteps": timesteps, "y": y}.items():
            if value is not None and value.shape != x.shape[:1]:
                raise UsageError(f"{name} has shape {value.shape}, expected {x.shape[:1]}")


class SuperResUNet(UNet):
    """A UNet that sees a low-resolution image beside its input (IDDPM, section 5).

    `low_res` is up-sampled bilinearly, and its channels are put behind those of x.
    """

    def _smallest_inputs(self) -> dict[str, Any]:
        inputs = super()._smallest_inputs()
        return {**inputs, "low_res": inputs["x"]}

    def _with_low_res(
        self, x: FeaturesLike, low_res: LowResLike | None
    ) -> Float[Array, "b *spatial {2*self.in_channels}"]:
        if low_res is None:
            raise UsageError("SuperResUNet needs a low_res input")
        if low_res.shape[0] != x.shape[0] or low_res.shape[-1] != x.shape[-1]:
            raise UsageError(
                f"low_res of shape {low_res.shape} does not fit an input of shape {x.shape}: "
                "batch and channels must be alike"
            )
        upsampled = upsample_bilinear(low_res, x.shape)
        return jnp.concatenate([x, upsampled.astype(x.dtype)], axis=-1)


def abstract_params(model: TrainableNetwork) -> dict[str, Any]:
    """The tree that `model.init_params` makes, as shapes and dtypes, without computing anything."""
    return jax.eval_shape(lambda: model.init_params(jax.random.key(0)))
