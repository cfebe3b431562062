"""What the files of a PyTorch run say of its training, for the configuration that it goes on with.

Configurations are values by dotted key.
"""

import pathlib
from collections.abc import Collection, Mapping
from typing import Any

from iddpm_jax.errors import UsageError
from iddpm_jax.torch_io.files import Moments
from iddpm_jax.torch_io.run_files import RunFiles


def ema_rates(values: Mapping[str, Any], files: RunFiles, are_chosen: bool) -> tuple[float, ...]:
    """The rates of the averages to keep: those of the files, unless the user chose others.

    Raises:
      UsageError: there is a file of a rate that was not chosen.
    """
    configured = values["train.ema_rate"]
    if are_chosen:
        rates = [str(rate) for rate in configured]
        unknown = [rate for rate in files.ema if rate not in rates]
        if unknown:
            raise UsageError(
                f"--ema: there is a file of rate {unknown[0]}, but train.ema_rate="
                f"{configured}; --config.train.ema_rate says which averages to keep"
            )
        return configured
    own = files.checkpoint_rate()
    rates = list(files.ema) or ([own] if own else configured)
    return tuple(float(rate) for rate in rates)


def optimizer_options(
    values: Mapping[str, Any], moments: Moments, path: pathlib.Path, asked: Collection[str]
) -> dict[str, float]:
    """Learning rate and weight decay of an optimiser's file, as loading it in torch sets them.

    Args:
      path: the file that `moments` are of.
      asked: keys whose values the user gave.

    Raises:
      UsageError: the user gave another value.
    """
    found = {"train.weight_decay": moments.weight_decay}
    if not values["train.lr_anneal_steps"]:  # Else the file has a moment of the decay.
        found["train.lr"] = moments.lr
    for key, value in found.items():
        if values[key] == value:
            continue
        if key in asked:
            raise UsageError(
                f"{key}={values[key]} is asked for, but {path} has {value}: leave one of the two "
                "out; without --optimizer it starts anew"
            )
        print(f"{key}={value} is that of {path.name}; the configuration had {values[key]}")
    return found


def num_steps(values: Mapping[str, Any], step: int, asked: Collection[str]) -> int | None:
    """Where training ends: where it stands, or its rate ends, unless the user says where.

    Of unknown steps nothing can be said: then it is None, and training asks for their number.
    """
    configured, anneal_steps = values["train.num_steps"], values["train.lr_anneal_steps"]
    if "train.num_steps" in asked:
        return configured
    end = max(configured or anneal_steps, step)
    return min(end, anneal_steps or end) or configured
