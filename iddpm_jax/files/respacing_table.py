"""The searched respacings of a work directory: `dpK` for every K, in one file.

dp_respacing.npz   bounds float64 [K + 1]: bits/dim of the best K steps at K, as estimated
                   timesteps int32 [K + 1, K]: row K starts with these K steps, then -1
                   step int64, the training step, and ema, what was searched with
"""

import pathlib
from typing import NamedTuple

import numpy as np

from iddpm_jax.errors import UsageError
from iddpm_jax.files.atomic import refusing_disk_errors, write_atomically
from iddpm_jax.files.npz import DamagedError, npz_bytes, read_npz

FILE_NAME = "dp_respacing.npz"


class RespacingTable(NamedTuple):
    """What the file holds."""

    bounds: np.ndarray
    timesteps: np.ndarray
    step: np.ndarray
    ema: np.ndarray


def save_table(workdir: pathlib.Path, table: RespacingTable) -> pathlib.Path:
    path = workdir / FILE_NAME
    with refusing_disk_errors(path):
        write_atomically(path, npz_bytes(**table._asdict()))
    return path


def searched_timesteps(
    workdir: pathlib.Path, count: int, step: int, ema: str, *, force: bool = False
) -> np.ndarray:
    """The timesteps that a search found for a number of steps, sorted, int32 `[count]`.

    Args:
      step, ema: the training step and the average of the model that will use them.
      force: take them although they were searched for another step or average.

    Raises:
      UsageError: the work directory has no table, none with as many steps, or that of another
        model.
    """
    path = workdir / FILE_NAME
    search = f"python -m iddpm_jax.dp_respacing --workdir={workdir}"
    if not path.exists():
        raise UsageError(f"respacing 'dp{count}' has not been searched for yet: {search}")
    table = read_table(path)
    searched = f"step {int(table.step):,} with EMA {table.ema}"
    wanted = f"step {step:,} with EMA {ema}"
    if searched != wanted and not force:
        raise UsageError(
            f"respacing 'dp{count}': {path} was searched at {searched}, but the model is that of "
            f"{wanted}: search again ({search} --ema={ema}), or take them all the same (--force)"
        )
    largest = len(table.bounds) - 1
    if not 2 <= count <= largest:
        raise UsageError(f"respacing 'dp{count}': {path} has from dp2 to dp{largest}")
    return table.timesteps[count, :count]


def read_table(path: pathlib.Path) -> RespacingTable:
    """Reads a table; UsageError if it is none."""
    try:
        arrays = read_npz(path, RespacingTable._fields)
    except DamagedError as error:
        raise UsageError(f"{error}; delete it and search anew") from error
    table = RespacingTable(**arrays)
    largest = table.bounds.size - 1
    sound = table.bounds.shape == (largest + 1,) and table.timesteps.shape == (largest + 1, largest)
    sound = sound and table.step.shape == table.ema.shape == ()
    kinds = (table.timesteps.dtype.kind, table.step.dtype.kind, table.ema.dtype.kind)
    if not sound or kinds != ("i", "i", "U"):
        raise UsageError(f"{path} holds no table of timesteps; delete it and search anew")
    return table
