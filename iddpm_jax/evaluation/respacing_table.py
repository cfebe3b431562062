"""The searched respacings of a work directory: `dpK` for every K, in one file.

dp_respacing.npz   bounds float64 [K + 1]: bits/dim of the best K steps at K, as estimated
                   timesteps int32 [K + 1, K]: row K starts with these K steps, then -1
                   step int64, the training step, and ema, what was searched with
"""

import pathlib
import re
import zipfile
from typing import NamedTuple

import numpy as np

from iddpm_jax.errors import UsageError
from iddpm_jax.evaluation.files import npz_bytes, write_atomically

FILE_NAME = "dp_respacing.npz"
SEARCHED = re.compile(r"dp(\d+)")


class RespacingTable(NamedTuple):
    """What the file holds."""

    bounds: np.ndarray
    timesteps: np.ndarray
    step: np.ndarray
    ema: np.ndarray


def save_table(workdir: pathlib.Path, table: RespacingTable) -> pathlib.Path:
    path = workdir / FILE_NAME
    write_atomically(path, npz_bytes(**table._asdict()))
    return path


def searched_timesteps(workdir: pathlib.Path, respacing: str) -> np.ndarray | None:
    """The timesteps of `dp25` and its like, sorted, int `[K]`; None for any other respacing.

    Raises:
      UsageError: the work directory has no table, or none with as many steps.
    """
    match = SEARCHED.fullmatch(respacing)
    if match is None:
        return None
    path = workdir / FILE_NAME
    if not path.exists():
        raise UsageError(
            f"respacing {respacing!r} has not been searched for yet: "
            f"python -m iddpm_jax.dp_respacing --workdir={workdir}"
        )
    try:
        with np.load(path) as arrays:
            table = RespacingTable(**{name: arrays[name] for name in RespacingTable._fields})
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} cannot be read ({error}); delete it and search anew") from error
    count, largest = int(match[1]), len(table.bounds) - 1
    if not 2 <= count <= largest:
        raise UsageError(f"respacing {respacing!r}: {path} has from dp2 to dp{largest}")
    return table.timesteps[count, :count]
