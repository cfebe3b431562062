"""A trained model: what draws with it, and what it can be asked for."""

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Float64, Shaped, UInt8

from iddpm_jax import diffusion as dm
from iddpm_jax import models
from iddpm_jax.data import Source
from iddpm_jax.data.standardization import Standardization
from iddpm_jax.distributed.mesh import make_mesh
from iddpm_jax.errors import UsageError
from iddpm_jax.files.output_directory import digest_of
from iddpm_jax.sampling import inputs
from iddpm_jax.sampling.generator import Generator, draw_all
from iddpm_jax.sampling.inputs import Inputs, Labels, Rule


# Two are the same if they are one object: arrays cannot be compared in a word, nor hashed.
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class TrainedModel:
    """A network with its parameters and diffusion process; `load` makes one.

    Attributes:
      model, params: the network, plain, so that it can be differentiated in every way.
      fast_model: the same network as it runs fastest here; forward mode may be missing.
      image_shape: (H, W, C).
      low_res: what makes a super-resolution model's input; None for other models.
      num_classes: classes that can be asked for; 0 for an unconditional model.
      null_label: the label that stands for none, where the model was trained with it.
      class_names: names of the classes.
      step: training steps taken.
      ema: the decay of the average that the parameters are, or "none".
      betas: the schedule; None for a process in continuous time.
      standardization: of the images that it was trained on.
      build_diffusion: respacing ("" for every timestep) to the process.
      open_source: split ("" for the training one) to the data that it was trained on; takes
        `data_dir` where they have moved, and `test_percent` for another test split of a folder.
    """

    model: models.Network
    fast_model: models.Network
    params: Any
    image_shape: tuple[int, int, int]
    low_res: models.LowRes | None
    num_classes: int
    null_label: int | None
    class_names: tuple[str, ...]
    step: int
    ema: str
    betas: Float64[np.ndarray, " T"] | None
    standardization: Standardization
    build_diffusion: Callable[[str], dm.GaussianDiffusion]
    open_source: Callable[..., Source]

    def __repr__(self) -> str:
        parameters = sum(leaf.size for leaf in jax.tree.leaves(self.params))
        process = "in continuous time" if self.betas is None else f"of {len(self.betas):,} steps"
        facts = (
            _architecture(self.model),
            f"{parameters:,} parameters",
            f"images {' × '.join(map(str, self.image_shape))}",
            f"{self.num_classes} classes" if self.num_classes else "unconditional",
            f"step {self.step:,}",
            f"EMA {self.ema}",
            f"process {process}",
        )
        return f"TrainedModel({', '.join(facts)})"

    @property
    def default_sampler(self) -> str:
        """Ancestral sampling, but in continuous time, which people know with DDIM, that."""
        return "ddim" if self.betas is None else "ddpm"

    def identity(self) -> dict[str, Any]:
        """What tells this model from any other, wherever it lies, for records of its results.

        `model` is a digest of the parameters and the schedule.
        """
        parameters = jax.device_get(jax.tree.leaves(self.params))
        return {
            "model": digest_of(*parameters, self.betas),
            "step": self.step,
            "ema": self.ema,
        }

    def refuse_super_resolution(self, command: str) -> None:
        """UsageError if the model is one for super-resolution, which `command` is not for."""
        if self.low_res is not None:
            raise UsageError(
                f"{command} is for models that draw images from noise alone, this one is for "
                f"super-resolution (model.small_size={self.low_res.size}): see "
                "python -m iddpm_jax.super_resolve"
            )

    def refuse_without_likelihood(self, command: str) -> None:
        """UsageError if the model has no likelihood, which `command` needs."""
        if self.betas is None:
            raise UsageError(
                f"{command} needs a likelihood, which a process in continuous time "
                "(diffusion.process='continuous') that is trained on the error of ε does not have"
            )
        if self.standardization.changes:
            raise UsageError(
                f"{command} needs a likelihood, which is that of 8-bit images; a model of "
                "standardised images (data.standardize=True) has none of those"
            )

    def respacing_name(self, respacing: str) -> str:
        """What tells results of a respacing apart: searched timesteps change with every search."""
        if not dm.is_searched(respacing):
            return respacing
        kept = np.asarray(self.build_diffusion(respacing).model_timesteps)
        return f"{respacing}-{hashlib.sha256(kept.tobytes()).hexdigest()[:8]}"

    def generator(
        self,
        sampler: str | None = None,
        respacing: str = "",
        eta: float = 0.0,
        guidance: float = 1.0,
        *,
        clip_denoised: bool | None = None,
        batch_size: int = 64,
    ) -> Generator:
        """What draws samples; the options are those of `sample`.

        `clip_denoised` clips the predicted x_0 to [-1, 1]; None: unless images are standardised.

        Raises:
          UsageError: there are no such samples.
        """
        if guidance != 1 and self.null_label is None:
            raise UsageError(
                f"guidance={guidance} needs a model trained with train.label_dropout > 0"
            )
        # So that the second stage of a cascade has noise of its own, whatever the seeds.
        second_stage = self.low_res is not None
        return Generator(
            d=self.build_diffusion(respacing),
            model=self.fast_model,
            params=self.params,
            image_shape=self.image_shape,
            mesh=make_mesh(),
            sampler=self.default_sampler if sampler is None else sampler,
            options={"eta": eta} if eta else {},
            clip_denoised=clip_denoised,
            null_label=self.null_label if guidance != 1 else None,
            guidance=guidance,
            batch_size=batch_size,
            standardization=self.standardization,
            x_T_stream=dm.Stream.SECOND_STAGE_X_T if second_stage else dm.Stream.X_T,
            noise_stream=(
                dm.Stream.SECOND_STAGE_NOISE if second_stage else dm.Stream.SAMPLING_NOISE
            ),
        )

    def sample(
        self,
        num: int,
        *,
        labels: Labels | None = None,
        sampler: str | None = None,
        respacing: str = "",
        eta: float = 0.0,
        guidance: float = 1.0,
        seed: int = 0,
        batch_size: int = 64,
    ) -> UInt8[np.ndarray, "num H W c"]:
        """Draws images; number i depends on the seed and i alone.

        Args:
          num: how many.
          labels: class labels, taken in turn; None takes all classes in turn.
          sampler: `ddpm`, `ddim` or `dpm-solver++`; None for `default_sampler`, as the command.
          respacing: timesteps to use: `250`, `10,15,20`, `ddim50`, `exact30`, `logsnr20`; empty
            for all; `dp25` where `python -m iddpm_jax.dp_respacing` has searched for them.
          eta: noise of DDIM, 0 to 1.
          guidance: weight of classifier-free guidance; 1 is the conditional model.
          seed: of everything random.
          batch_size: images drawn at a time; changes nothing but speed and memory.

        Raises:
          UsageError: the model cannot do what is asked.
        """
        self.refuse_super_resolution("sample")
        _check_whole(num=(num, 1), batch_size=(batch_size, 1), seed=(seed, 0))
        given = Inputs(labels=self.label_rule(labels))
        generator = self.generator(sampler, respacing, eta, guidance, batch_size=batch_size)
        return draw_all(generator, num, seed, given)

    def super_resolve(
        self,
        images: UInt8[np.ndarray, "N h w c"],
        *,
        labels: Labels | None = None,
        sampler: str | None = None,
        respacing: str = "",
        eta: float = 0.0,
        guidance: float = 1.0,
        seed: int = 0,
        batch_size: int = 64,
    ) -> UInt8[np.ndarray, "N H W c"]:
        """Draws a large version of each image; the options are those of `sample`.

        Args:
          images: of the size that the model takes.
          labels: their classes, for a class-conditional model; taken in turn.

        Raises:
          UsageError: the images or labels do not fit the model.
        """
        images = np.asarray(images)
        self.check_low_res(images, labels)
        _check_whole(batch_size=(batch_size, 1), seed=(seed, 0))
        given = Inputs(labels=self.label_rule(labels), low_res=self.low_res_rule(images, seed))
        generator = self.generator(sampler, respacing, eta, guidance, batch_size=batch_size)
        return draw_all(generator, len(images), seed, given)

    def label_rule(self, labels: Labels | None) -> Rule:
        """Sample numbers to labels: the given ones, or all classes, in turn."""
        return inputs.label_rule(labels, self.num_classes)

    def low_res_rule(self, images: UInt8[np.ndarray, "N h w c"], seed: int) -> Rule:
        """Sample numbers to the network's input, made of small images."""
        assert self.low_res is not None, "check_low_res comes first"
        return inputs.low_res_rule(self.low_res, images, seed)

    def check_low_res(self, images: Shaped[np.ndarray, "..."], labels: Labels | None) -> None:
        """UsageError unless images and labels can be given to a super-resolution model."""
        inputs.check_low_res(self.low_res, images, self.image_shape[-1])
        if self.num_classes and labels is None:
            raise UsageError("the model is class-conditional, and there are no labels")


def _check_whole(**values: tuple[Any, int]) -> None:
    """UsageError unless each value is a whole number from its least one to 2³² - 1."""
    for name, (value, least) in values.items():
        if not inputs.is_whole(value) or not least <= value < 2**32:
            raise UsageError(f"{name}={value!r} must be a whole number, {least} to 2**32 - 1")


def _architecture(model: Any) -> str:
    name = type(model).__name__
    if not isinstance(model, models.UNet):
        return name
    return f"{name} of {model.model_channels} × {tuple(model.channel_mult)} channels"
