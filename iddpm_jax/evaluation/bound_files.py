"""The files of an evaluation of the bound.

DIR/settings.json  what is evaluated
DIR/shards/        the images that are done, until all are
DIR/nll.json       the bound and its parts, and the settings again
DIR/…_terms.npz    the terms over t, arr_0 float64 [T], t = T-1 first; vb_terms.png their plot
"""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from iddpm_jax.errors import UsageError
from iddpm_jax.evaluation.bound import BoundSummary, check_part, summarise
from iddpm_jax.files.atomic import refusing_disk_errors, write_atomically, write_json
from iddpm_jax.files.npz import npz_bytes
from iddpm_jax.files.plots import save_terms_plot
from iddpm_jax.files.settings_record import differing_settings
from iddpm_jax.files.shards import Shards
from iddpm_jax.files.untrusted import read_json

_ADVICE = "delete it, and the images are evaluated again"
_NUMBERS = ("bits_per_dim", "prior_bpd", "kl_bpd", "decoder_bpd", "num_timesteps")


def write_result(
    directory: pathlib.Path, settings: Mapping[str, Any], shards: Shards, num_timesteps: int
) -> None:
    """Sums up the shards and writes the results; `nll.json` last, which says that all are there."""
    summary = _summary(directory, shards, num_timesteps)
    for name, values in summary.terms.items():
        path = directory / f"{name}_terms.npz"
        with refusing_disk_errors(path):
            write_atomically(path, npz_bytes(values))
    path = directory / "vb_terms.png"
    with refusing_disk_errors(path):
        save_terms_plot(path, {"vb": summary.terms["vb"]})
    numbers = {key: value for key, value in summary._asdict().items() if key != "terms"}
    path = directory / "nll.json"
    with refusing_disk_errors(path):
        write_json(path, {**numbers, "num_timesteps": num_timesteps, **settings})


def _summary(directory: pathlib.Path, shards: Shards, num_timesteps: int) -> BoundSummary:
    def parts() -> Iterator[dict[str, np.ndarray]]:
        for count, part in shards.read():
            try:
                check_part(part, count, num_timesteps)
            except UsageError as error:
                raise UsageError(
                    f"{directory / 'shards'} is damaged: {error}; {_ADVICE}"
                ) from error
            yield part

    return summarise(parts())


def read_result(directory: pathlib.Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """What `nll.json` of an evaluation that has come to its end holds; None if it has not.

    Raises:
      UsageError: it is not what was written.
    """
    file = directory / "nll.json"
    if not (file.exists() or file.is_symlink()):
        return None
    try:
        result = read_json(file, "the result")
    except UsageError as error:
        raise UsageError(f"{error}; {_ADVICE}") from error
    sound = isinstance(result, dict)
    sound = sound and not differing_settings({key: result.get(key) for key in settings}, settings)
    if not (sound and all(isinstance(result.get(name), int | float) for name in _NUMBERS)):
        raise UsageError(f"{file} is not the result of {directory / 'settings.json'}: {_ADVICE}")
    return result
