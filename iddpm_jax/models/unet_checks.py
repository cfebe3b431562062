"""Which UNets can be built, and of which sizes of images; everything is refused on the host."""

from collections.abc import Mapping, Sequence

from iddpm_jax.errors import UsageError
from iddpm_jax.models.layers import NUM_GROUPS


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


def check_architecture(
    *,
    dims: int,
    model_channels: int,
    channel_mult: Sequence[int],
    attention_resolutions: Sequence[int],
    heads: Mapping[str, int],
    dropout: float,
) -> None:
    """Checks the attributes of a `UNet`; `heads` are numbers of attention heads by name.

    Raises:
      UsageError: such a network cannot be built; names the values.
    """
    if not 1 <= dims <= 3:
        raise UsageError(f"dims={dims}: signals may have 1, 2 or 3 spatial axes")
    if not channel_mult:
        raise UsageError("channel_mult is empty: give one factor for each resolution")
    factors = [2**level for level in range(len(channel_mult))]
    for factor, mult in zip(factors, channel_mult, strict=True):
        channels = mult * model_channels
        if channels < 1 or channels % NUM_GROUPS:
            raise UsageError(
                f"num_channels={model_channels} times channel_mult={mult} gives {channels} "
                f"channels, which the {NUM_GROUPS} groups of GroupNorm do not divide"
            )
        # The bottleneck attends whatever attention_resolutions says.
        if factor in attention_resolutions or factor == factors[-1]:
            for name, value in heads.items():
                if value < 1 or channels % value:
                    raise UsageError(f"{name}={value} does not divide {channels} channels")
    unreached = sorted(set(attention_resolutions) - set(factors))
    if unreached:
        raise UsageError(
            f"attention at down-sampling {unreached} is never reached: a network with "
            f"{len(factors)} resolutions down-samples by {factors}"
        )
    if not 0 <= dropout < 1:
        raise UsageError(f"dropout={dropout} must be in [0, 1)")
