"""The architecture of a UNet, read from the names and shapes in a torch state dict.

Letters: L resolutions, N residual blocks per resolution.
"""

import dataclasses
import re
from collections.abc import Mapping

from iddpm_jax.errors import UsageError

Shapes = Mapping[str, tuple[int, ...]]

_BLOCK = re.compile(r"(input|output)_blocks\.(\d+)\.")


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The attributes of a `UNet` that its parameters' shapes determine.

    Attributes:
      dims: number of spatial axes.
      input_channels: channels that the first convolution sees: the image's, or twice as many
        in a super-resolution network.
      output_channels: the image's, or twice as many where the variance is learned.
      conv_resample: None for a network of one resolution, which resamples nothing.
    """

    dims: int
    model_channels: int
    input_channels: int
    output_channels: int
    num_res_blocks: int
    channel_mult: tuple[int, ...]
    attention_resolutions: tuple[int, ...]
    num_classes: int | None
    use_scale_shift_norm: bool
    conv_resample: bool | None

    def readings(self) -> list[tuple[int, bool, bool]]:
        """(image channels, super-resolution, learned variance): every way to read the channels.

        Images have 1 to 4 channels. Two pairs of numbers can be read in two ways: 2 in and
        2 out, 4 in and 4 out.
        """
        return [
            (channels, super_resolution, learned)
            for channels in range(1, 5)
            for super_resolution in (False, True)
            for learned in (False, True)
            if self.input_channels == channels * (1 + super_resolution)
            and self.output_channels == channels * (1 + learned)
        ]


def infer_architecture(shapes: Shapes) -> Architecture:
    """Reads the architecture from the shapes of a state dict's parameters, by name.

    A few parameters decide; `params_from_torch` checks all of them against the network.

    Raises:
      UsageError: it is not the state dict of a UNet of improved diffusion.
    """
    first, last = _shape(shapes, "input_blocks.0.0.weight"), _shape(shapes, "out.2.weight")
    width = first[0]
    levels = _levels(shapes)
    blocks = {len(level) for level in levels}
    if len(blocks) != 1:
        counts = [len(level) for level in levels]
        raise UsageError(f"resolutions have unequal numbers of residual blocks: {counts}")
    channels = [
        [_shape(shapes, f"{block}.0.out_layers.3.weight")[0] for block in x] for x in levels
    ]
    for x in channels:
        if len(set(x)) != 1 or x[0] % width:
            raise UsageError(
                f"the residual blocks of a resolution have {x} channels, which are not one "
                f"multiple of the {width} at the input"
            )
    has_attention = [{f"{block}.1.qkv.weight" in shapes for block in level} for level in levels]
    if any(len(x) != 1 for x in has_attention):
        raise UsageError("some, but not all residual blocks of a resolution attend")
    block = f"{levels[0][0]}.0"
    scale_shift = _shape(shapes, f"{block}.emb_layers.1.weight")[0] == 2 * channels[0][0]
    resampled = any(".0.op." in name for name in shapes)
    embedding = shapes.get("label_emb.weight")
    return Architecture(
        dims=len(first) - 2,
        model_channels=width,
        input_channels=first[1],
        output_channels=last[0],
        num_res_blocks=blocks.pop(),
        channel_mult=tuple(x[0] // width for x in channels),
        attention_resolutions=tuple(2**i for i, x in enumerate(has_attention) if x == {True}),
        num_classes=embedding[0] if embedding else None,
        use_scale_shift_norm=scale_shift,
        conv_resample=resampled if len(levels) > 1 else None,
    )


def _shape(shapes: Shapes, name: str) -> tuple[int, ...]:
    """The shape of a kernel that every such network has; UsageError where it is missing."""
    shape = tuple(shapes.get(name, ()))
    if len(shape) < 2 or min(shape) < 1:
        found = f"has shape {shape}" if name in shapes else "is missing"
        raise UsageError(f"{name} {found}: these are not the weights of an improved-diffusion UNet")
    return shape


def _levels(shapes: Shapes) -> list[list[str]]:
    """Names of the residual blocks on the way down, `input_blocks.i`, by resolution.

    Between two resolutions there is a down-sampling. It has a convolution (`op`) or, where it
    pools, no parameter: then no parameter has its number.
    """
    numbers: dict[str, set[int]] = {"input": set(), "output": set()}
    for name in shapes:
        match = _BLOCK.match(name)
        if match and len(match[2]) <= 4:
            numbers[match[1]].add(int(match[2]))
    # Both halves have L (N + 1) blocks; on the way up, each of them has parameters.
    count = max(numbers["output"], default=0) + 1
    if numbers["output"] != set(range(count)) or max(numbers["input"]) >= count:
        raise UsageError(
            f"the network has {len(numbers['output'])} blocks on the way up and "
            f"{len(numbers['input'])} on the way down, numbered with gaps: some are missing"
        )
    levels: list[list[str]] = [[]]
    for number in range(1, count):
        block = f"input_blocks.{number}"
        if f"{block}.0.in_layers.0.weight" in shapes:
            levels[-1].append(block)
        else:
            levels.append([])
    if not all(levels):
        raise UsageError("a resolution has no residual block on the way down")
    return levels


# Factors on the width by number of resolutions. The reference has those of 256 and 64 pixels
# (6 and 4 resolutions), and (1, 2, 2, 2) for 32.
_CHANNEL_MULTS = {
    1: (1,),
    2: (1, 2),
    3: (1, 2, 2),
    4: (1, 2, 3, 4),
    5: (1, 1, 2, 3, 4),
    6: (1, 1, 2, 2, 4, 4),
}


def default_channel_mult(image_size: int) -> tuple[int, ...]:
    """`UNet.channel_mult` for square images of a size: the reference's, and its like for others.

    The network halves the image while it stays even and at least 4 wide (8 from 64 on).
    """
    if image_size == 32:
        return (1, 2, 2, 2)
    smallest = 8 if image_size >= 64 else 4
    levels, size = 1, image_size
    while size % 2 == 0 and size // 2 >= smallest and levels < max(_CHANNEL_MULTS):
        levels, size = levels + 1, size // 2
    return _CHANNEL_MULTS[levels]
