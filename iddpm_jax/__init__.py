"""Improved denoising diffusion probabilistic models (Nichol & Dhariwal 2021) in JAX.

`load` makes a `TrainedModel` of a work directory, `diffusion` and `models` are the mathematics and
the networks, and `UsageError` is what all of them raise of their own accord.
"""

import importlib
from typing import TYPE_CHECKING, Any

from iddpm_jax.errors import UsageError

if TYPE_CHECKING:
    from iddpm_jax import diffusion, models
    from iddpm_jax.trained import TrainedModel, load

__all__ = ["TrainedModel", "UsageError", "diffusion", "load", "models"]

__version__ = "0.1.0"

# Imported when they are first asked for: commands answer before they have imported JAX.
_MODULES = ("diffusion", "models")
_OF_TRAINED = ("TrainedModel", "load")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"iddpm_jax.{name}")
    if name in _OF_TRAINED:
        return getattr(importlib.import_module("iddpm_jax.trained"), name)
    raise AttributeError(f"module 'iddpm_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
