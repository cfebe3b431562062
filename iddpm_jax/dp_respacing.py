"""Searches the timesteps with the best likelihood, for every number of steps at once.

    python -m iddpm_jax.dp_respacing --workdir=runs/digits --split=test

Afterwards `--respacing=dp25` works in the sample and nll commands, with any number. The search is
that of Watson et al. (2021): one pass over the images measures what every step from t to s costs in
bits/dim, and dynamic programming finds the cheapest path of K steps.
"""

from __future__ import annotations

import pathlib
import shutil
from typing import TYPE_CHECKING

from absl import flags

from iddpm_jax.cli import command
from iddpm_jax.cli.flag_errors import define_path
from iddpm_jax.config.recipes import load_recorded
from iddpm_jax.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from iddpm_jax import diffusion as dm
    from iddpm_jax.evaluation.respacing_table import RespacingTable
    from iddpm_jax.evaluation.shards import Shards

_WORKDIR = define_path("workdir", "Work directory of the trained model.")
_SPLIT = flags.DEFINE_string("split", "test", "Held-out images to measure the steps on.")
_NUM = flags.DEFINE_integer(
    "num_samples", 128, "Number of images, spread over the split; 0: all.", lower_bound=0
)
_CANDIDATES = flags.DEFINE_integer(
    "candidates",
    1000,
    "Timesteps to choose from, spread evenly, where there are more. Time and memory grow with its "
    "square.",
    lower_bound=2,
)
_BATCH = flags.DEFINE_integer("batch_size", 64, "Images at a time.", lower_bound=1)
_EMA = flags.DEFINE_string("ema", "", "Rate of the averaged parameters, or none; default: first.")
_TRUST = flags.DEFINE_bool(
    "trust_code", False, "Import the code that the work directory's config.json names, if any."
)
_DATA_DIR = define_path("data_dir", "Where the data are now, if they have moved.")
_TEST_PERCENT = flags.DEFINE_float(
    "test_percent",
    None,
    "Share of a folder that is its test split; default: that of the run. Beyond it images were "
    "trained on.",
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the noise.", lower_bound=0, upper_bound=2**32 - 1)


def main() -> None:
    if not _SPLIT.value.strip():
        raise UsageError("--split is empty: name a part of the data, such as test or train")
    load_recorded(pathlib.Path(_WORKDIR.value))  # Refused before JAX is imported.

    import numpy as np

    from iddpm_jax import compilation_cache, trained
    from iddpm_jax import diffusion as dm
    from iddpm_jax.evaluation.generation import batch_size_for
    from iddpm_jax.evaluation.image_batches import image_batches, spread_indices
    from iddpm_jax.evaluation.respacing_table import RespacingTable, save_table
    from iddpm_jax.evaluation.shards import Shards, claim
    from iddpm_jax.evaluation.transition_costs import make_measure
    from iddpm_jax.progress_bar import progress_bar
    from iddpm_jax.training import sharding

    model = trained.load(_WORKDIR.value, _EMA.value, trust_code=_TRUST.value)
    model.refuse_without_likelihood("dp_respacing")
    source = model.open_source(
        _SPLIT.value, data_dir=_DATA_DIR.value, test_percent=_TEST_PERCENT.value
    )
    workdir = pathlib.Path(_WORKDIR.value).absolute()
    candidates = _candidates(model.betas.size)
    d = model.build_diffusion("" if candidates is None else f"exact{candidates.size}")
    dm.check_searchable(d)
    mesh = sharding.make_mesh()
    indices = spread_indices(len(source), min(_NUM.value, len(source)))
    size = batch_size_for(len(indices), _BATCH.value, mesh)
    compilation_cache.enable(workdir.parent)
    scratch = workdir / "dp_respacing"
    settings = {
        "step": model.step,
        "ema": model.ema,
        "split": _SPLIT.value,
        "images": source.fingerprint,
        "num_images": len(indices),
        "candidates": d.num_timesteps,
        "batch_size": size,
        "seed": _SEED.value,
    }
    try:
        claim(scratch, settings, "settings.json")
    except ValueError:  # What is left of another search.
        shutil.rmtree(scratch, ignore_errors=True)
        claim(scratch, settings, "settings.json")
    shards = Shards(scratch / "shards")
    first = shards.count()
    if first:
        print(f"continuing after {first} finished batches of {size}")
    betas = model.betas if candidates is None else dm.respaced_betas(model.betas, candidates)
    measure = make_measure(d, betas, model, mesh, _SEED.value)
    batches = image_batches(source.batch, indices, size, first)
    total_steps = -(-len(indices) // size) * d.num_timesteps
    with progress_bar(total_steps, first * d.num_timesteps, "timesteps") as bar:
        for number, batch in enumerate(batches, start=first):
            costs = measure(batch, bar.update)._asdict()
            shards.write(number, {**costs, "count": np.float64(batch.count)})
    total = _mean(shards)
    bounds, kept = dm.best_timesteps(total, d.num_timesteps)
    if candidates is not None:
        kept = np.where(kept >= 0, candidates[kept], -1)
    table = RespacingTable(bounds, kept, np.int64(model.step), np.str_(model.ema))
    path = save_table(workdir, table)
    shutil.rmtree(scratch)
    _report(path, table, model.betas.size)


def _candidates(num_timesteps: int) -> np.ndarray | None:
    """The timesteps to choose from, where not all of them."""
    from iddpm_jax import diffusion as dm

    if num_timesteps <= _CANDIDATES.value:
        return None
    return dm.space_timesteps(num_timesteps, f"exact{_CANDIDATES.value}")


def _mean(shards: Shards) -> dm.Costs:
    """The costs of all batches, per image that counted."""
    from iddpm_jax import diffusion as dm

    sums: dict[str, np.ndarray] = {}
    for part in shards.read():
        sums = {name: sums.get(name, 0.0) + value for name, value in part.items()}
    count = sums.pop("count")
    if not count:
        raise UsageError("there was no image that can be used")
    return dm.Costs(**{name: value / count for name, value in sums.items()})


def _report(path: pathlib.Path, table: RespacingTable, num_timesteps: int) -> None:
    print("steps: estimated bits/dim, timesteps")
    shown = [k for k in (2, 5, 10, 25, 50, 100, 250) if k < len(table.bounds)]
    for count in shown:
        kept = table.timesteps[count, :count]
        text = ", ".join(map(str, kept if count <= 10 else [*kept[:5], "…", *kept[-4:]]))
        print(f"dp{count}: {table.bounds[count]:.4f}, {text}")
    print(f"all {num_timesteps:,}, or any number, as --respacing=dp25: {path}")


run = command(main, required=["workdir"], continues=True)

if __name__ == "__main__":
    run()
