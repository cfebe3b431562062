"""What an evaluation asks of a trained model: a part of what `iddpm_jax.load` returns."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from iddpm_jax import diffusion as dm
from iddpm_jax import models
from iddpm_jax.data import Source


class TrainedModel(Protocol):
    """A network with parameters, a diffusion process, and the data that it was trained on."""

    @property
    def fast_model(self) -> models.Network:
        """The network."""

    @property
    def params(self) -> Any:
        """Its parameters."""

    @property
    def low_res(self) -> models.LowRes | None:
        """What makes a super-resolution model's input; None for other models."""

    @property
    def betas(self) -> np.ndarray | None:
        """The whole schedule, float64 `[T]`."""

    @property
    def build_diffusion(self) -> Callable[[str], dm.GaussianDiffusion]:
        """Respacing ("" for every timestep) to the process."""

    @property
    def open_source(self) -> Callable[..., Source]:
        """Split to data; takes `data_dir` and `test_percent`, too."""

    def respacing_name(self, respacing: str) -> str:
        """What tells results of a respacing apart."""

    def identity(self) -> dict[str, Any]:
        """What tells this model from any other, for records."""
