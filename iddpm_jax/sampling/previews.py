"""The sample grids that training draws of itself.

Axis letters: N samples, H W C image.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import numpy as np
from jax.sharding import Mesh

from iddpm_jax import diffusion as dm
from iddpm_jax.data.standardization import UNCHANGED, Standardization
from iddpm_jax.files.pictures import make_grid
from iddpm_jax.sampling.generator import Generator, draw_all


@dataclasses.dataclass(frozen=True)
class Preview:
    """Draws one grid of DDIM samples, always from the same noise, so that grids compare.

    Attributes:
      d: the (respaced) process.
      model: the network.
      image_shape: (H, W, C).
      num_classes: classes to show; 0 for an unconditional model.
      num_samples: N, at most. A class-conditional model gets one row for each class.
      class_names: names of the classes, or empty.
      seed: of x_T.
      mesh: devices to run on.
      standardization: of the images that the model is trained on.
      batch_size: images drawn at a time, as far as the devices divide it; 0: all.
      guidance, null_label: weight of classifier-free guidance, and the label that stands for
        none; without that label there is no guidance.
    """

    d: dm.GaussianDiffusion
    model: nn.Module
    image_shape: tuple[int, int, int]
    num_classes: int
    num_samples: int
    class_names: tuple[str, ...]
    seed: int
    mesh: Mesh
    standardization: Standardization = UNCHANGED
    batch_size: int = 0
    guidance: float = 1.0
    null_label: int | None = None

    def layout(self) -> tuple[np.ndarray | None, int, tuple[str, ...]]:
        """Labels `[N]` or None, images per row, and names of the rows."""
        classes = self.num_classes
        if not classes:
            return None, max(1, math.isqrt(self.num_samples)), ()
        # Where there are more classes than fit in a square, evenly spread ones are shown.
        rows = min(classes, max(1, math.isqrt(self.num_samples)))
        if classes <= self.num_samples and classes <= 4 * rows:
            rows = classes
        columns = max(1, self.num_samples // rows)
        shown = np.unique(np.linspace(0, classes - 1, rows).round().astype(np.int32))
        named = len(self.class_names)
        names = tuple(self.class_names[i] if i < named else str(i) for i in shown)
        return shown.repeat(columns), columns, names

    def make(self) -> Callable[[Any], np.ndarray]:
        """Returns `params -> uint8 [height, width, 3]`; it compiles when first called."""
        labels, columns, names = self.layout()
        count = self.num_samples if labels is None else len(labels)

        def draw(params: Any) -> np.ndarray:
            images = draw_all(
                ddim_generator(self, params, self.image_shape, self.null_label),
                count,
                lambda indices: None if labels is None else labels[indices % count],
                seed=self.seed,
                guidance=self.guidance,
                batch_size=self.batch_size or count,
            )
            return make_grid(images, columns, names)

        return draw


def ddim_generator(
    preview: Any, params: Any, image_shape: tuple[int, int, int], null_label: int | None = None
) -> Generator:
    """What draws DDIM samples with a preview's process, model and devices."""
    return Generator(
        d=preview.d,
        model=preview.model,
        params=params,
        image_shape=image_shape,
        sampler="ddim",
        eta=0.0,
        null_label=null_label,
        mesh=preview.mesh,
        standardization=preview.standardization,
        x_T_stream=dm.Stream.PREVIEW_X_T,
    )
