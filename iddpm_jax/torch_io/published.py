"""The eight checkpoints that OpenAI published with improved diffusion.

https://github.com/openai/improved-diffusion lists them with their flags; the recipes under
`configs/` hold these flags and train the same networks from scratch.
"""

import pathlib
from typing import NamedTuple


class Published(NamedTuple):
    """A published checkpoint: the name of its recipe, and its training steps."""

    recipe: str
    steps: int


PUBLISHED = {
    "cifar10_uncond_50M_500K": Published("cifar10_cosine", 500_000),
    "cifar10_uncond_vlb_50M_500K": Published("cifar10_vlb", 500_000),
    "imagenet64_uncond_100M_1500K": Published("imagenet64_uncond", 1_500_000),
    "imagenet64_uncond_vlb_100M_1500K": Published("imagenet64_uncond_vlb", 1_500_000),
    "imagenet64_cond_270M_250K": Published("imagenet64_cond", 250_000),
    "upsample_cond_500K": Published("upsample_64_256", 500_000),
    "lsun_uncond_100M_1200K_bs128": Published("lsun_bedroom_bs128", 1_200_000),
    "lsun_uncond_100M_2400K_bs64": Published("lsun_bedroom_bs64", 2_400_000),
}


def named_in(path: pathlib.Path, among: list[str]) -> str | None:
    """The one of these checkpoints whose name is in a file's name, as in `NAME (1).pt`."""
    named = [name for name in among if name in path.name]
    return named[0] if len(named) == 1 else None
