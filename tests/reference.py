"""What the golden files share: layouts, names and filler weights of the reference."""

import zlib

import numpy as np

from iddpm_jax import models

MEAN_TYPES = {"epsilon": "epsilon", "start_x": "x_start", "previous_x": "x_prev"}
MODEL_CLASSES = {"UNetModel": models.UNet, "SuperResModel": models.SuperResUNet}


def channels_last(x: np.ndarray) -> np.ndarray:
    """`[B, C, …]` to `[B, …, C]`."""
    return np.moveaxis(x, 1, -1)


def relative_error(actual, expected) -> float:
    """Largest error, relative to the expected values' largest magnitude."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    # Not nanmax: a NaN must fail every comparison.
    return float(np.abs(actual - expected).max() / max(np.abs(expected).max(), 1e-30))


def filler_weight(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """The weight that the golden networks have under a torch name."""
    random = np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32)
    value = random.standard_normal(shape)
    if len(shape) > 1:
        value *= 1 if name.startswith("label_emb") else 1 / np.sqrt(np.prod(shape[1:]))
    else:
        value = value * 0.1 + (1 if name.endswith("weight") else 0)
    return value.astype(np.float32)


def make_network(entry: dict, seed: int):
    """(model, params) of an entry of unet.json."""
    config = {k: tuple(v) if isinstance(v, list) else v for k, v in entry["config"].items()}
    model_class = MODEL_CLASSES[config.pop("cls")]
    config.pop("size")
    config.pop("low", None)
    model = model_class(**config)
    state_dict = {
        name: filler_weight(name, tuple(shape), seed) for name, shape in entry["params"].items()
    }
    return model, models.params_from_torch(state_dict, model)
