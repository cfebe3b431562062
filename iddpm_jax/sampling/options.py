"""What samples are asked for, and what of that is recorded beside them."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from iddpm_jax.errors import UsageError
from iddpm_jax.files.output_directory import default_directory
from iddpm_jax.sampling.class_labels import label_numbers
from iddpm_jax.sampling.generator import Generator
from iddpm_jax.sampling.trained_model import TrainedModel

_LABELS_SHOWN = 5  # In the name of a directory, at most.


@dataclasses.dataclass(frozen=True)
class SamplingOptions:
    """How samples are drawn, and where they go.

    Attributes:
      workdir: the model's, inside which they go unless `out` says where.
      sampler: `ddpm`, `ddim` or `dpm-solver++`; None for the model's own.
      respacing: timesteps to use; "" for all.
      eta: noise of DDIM, 0 to 1.
      labels: classes by number or by name, taken in turn; None for all in turn.
      guidance: weight of classifier-free guidance; 1: none.
      seed: of everything random.
      clip_denoised: clip the predicted x_0 to [-1, 1]; None: unless images are standardised.
      rgb: write samples of one channel as three equal ones.
      batch_size: samples drawn at a time; changes nothing but speed and memory.
      png: also write one file for each sample.
    """

    workdir: str
    out: str | None = None
    sampler: str | None = None
    respacing: str = ""
    eta: float = 0.0
    labels: Sequence[str] | None = None
    guidance: float = 1.0
    seed: int = 0
    clip_denoised: bool | None = None
    rgb: bool = False
    batch_size: int = 64
    png: bool = False

    def generator(self, model: TrainedModel) -> Generator:
        """What draws so; UsageError if the model cannot."""
        return model.generator(
            self.sampler,
            self.respacing,
            eta=self.eta,
            guidance=self.guidance,
            clip_denoised=self.clip_denoised,
            batch_size=self.batch_size,
        )

    def settings(
        self,
        model: TrainedModel,
        generator: Generator,
        num_samples: int,
        class_names: Sequence[str],
    ) -> dict[str, Any]:
        """What the samples depend on: two runs that agree in this draw the same.

        What changes only speed, place or which pictures there are beside them is not part of it.

        Args:
          class_names: of the model that knows the names in `labels`.

        Raises:
          UsageError: there is no such class, or the model is not gray and `rgb` is wanted.
        """
        channels = model.image_shape[-1]
        if self.rgb and channels != 1:
            raise UsageError(f"--rgb writes gray as RGB, and the model draws {channels} channels")
        return {
            **model.identity(),
            "num_samples": num_samples,
            "sampler": generator.sampler,
            "respacing": model.respacing_name(self.respacing),
            "eta": self.eta,
            "labels": label_numbers(self.labels, class_names),
            "guidance": self.guidance,
            "clip_denoised": generator.clips,
            "seed": self.seed,
            "rgb": self.rgb,
        }

    def directory(self, settings: Mapping[str, Any], kind: str = "") -> pathlib.Path:
        """Where results of such settings go; `kind` is the first word of a default name."""
        if self.out:
            return pathlib.Path(self.out).absolute()
        labels = settings["labels"]
        few = bool(labels) and len(labels) <= _LABELS_SHOWN
        parts = (
            kind,
            settings["sampler"],
            settings["respacing"] or "all",
            settings.get("num_samples"),
            f"eta{settings['eta']:g}" if settings["eta"] else "",
            f"guidance{settings['guidance']:g}" if settings["guidance"] != 1 else "",
            f"labels{'-'.join(map(str, labels))}" if few else "",
            f"seed{settings['seed']}" if "seed" in settings else "",
            f"step{settings['step']}",
        )
        return default_directory(self.workdir, "samples", parts, settings)
