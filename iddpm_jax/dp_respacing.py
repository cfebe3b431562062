"""Searches the timesteps with the best likelihood, for every number of steps at once.

    python -m iddpm_jax.dp_respacing --workdir=runs/digits --split=test

Afterwards `--respacing=dp25` works in the sample and nll commands, with any number. The search is
that of Watson et al. (2021): one pass over the images measures what every step from t to s costs in
bits/dim, and dynamic programming finds the cheapest path of K steps.
"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

from absl import flags

from iddpm_jax.cli import command, shared_flags
from iddpm_jax.config.recipes import load_recorded
from iddpm_jax.errors import SMALLER_BATCHES, explain_out_of_memory

if TYPE_CHECKING:
    import numpy as np

    from iddpm_jax.files.respacing_table import RespacingTable
    from iddpm_jax.files.shards import Shards

_WORKDIR = shared_flags.workdir()
_SPLIT = shared_flags.split("test", "Held-out images to measure the steps on.")
_NUM = shared_flags.num_samples(128, "Number of images, spread over the split; 0: all.")
_CANDIDATES = flags.DEFINE_integer(
    "candidates",
    1000,
    "Timesteps to choose from, spread evenly, where there are more. Time and memory grow with its "
    "square.",
    lower_bound=2,
)
_BATCH = shared_flags.batch_size()
_EMA = shared_flags.ema()
_TRUST = shared_flags.trust_code()
_DATA_DIR = shared_flags.data_dir()
_TEST_PERCENT = shared_flags.test_percent()
_SEED = shared_flags.seed()

_RECORD = "settings.json"
_ADVICE = "move it away"


def main() -> None:
    shared_flags.refuse_empty_split(_SPLIT.value)
    load_recorded(pathlib.Path(_WORKDIR.value))  # Refused before JAX is imported.

    from iddpm_jax import diffusion as dm
    from iddpm_jax import trained
    from iddpm_jax.cli import compilation_cache
    from iddpm_jax.data.image_batches import spread_indices
    from iddpm_jax.distributed.mesh import make_mesh
    from iddpm_jax.files.output_directory import (
        lock_and_record,
        remove_shards_and_record,
        remove_shards_of_other_settings,
    )
    from iddpm_jax.files.shards import Shards
    from iddpm_jax.sampling.generator import batch_size_for

    model = trained.load(_WORKDIR.value, _EMA.value, trust_code=_TRUST.value)
    model.refuse_without_likelihood("dp_respacing")
    source = model.open_source(
        _SPLIT.value, data_dir=_DATA_DIR.value, test_percent=_TEST_PERCENT.value
    )
    workdir = pathlib.Path(_WORKDIR.value).absolute()
    candidates = _candidates(model.betas.size)
    d = model.build_diffusion("" if candidates is None else f"exact{candidates.size}")
    dm.check_searchable(d)
    mesh = make_mesh()
    indices = spread_indices(len(source), min(_NUM.value, len(source)))
    size = batch_size_for(len(indices), _BATCH.value, mesh)
    compilation_cache.enable(workdir.parent)
    scratch = workdir / "dp_respacing"
    settings = {
        **model.identity(),
        "split": _SPLIT.value,
        "images": source.fingerprint,
        "num_images": len(indices),
        "candidates": d.num_timesteps,
        "seed": _SEED.value,
    }
    remove_shards_of_other_settings(scratch, settings, _RECORD, _ADVICE)
    with lock_and_record(scratch, settings, _RECORD, _ADVICE):
        shards = Shards(scratch / "shards", len(indices))
        betas = model.betas if candidates is None else dm.respaced_betas(model.betas, candidates)
        _measure(model, d, betas, source, mesh, indices, size, shards)
        path, table = _search(shards, d.num_timesteps, candidates, model, workdir)
        remove_shards_and_record(scratch, _RECORD)
    _report(path, table, model.betas.size)


@explain_out_of_memory(SMALLER_BATCHES)
def _measure(model, d, betas, source, mesh, indices, size: int, shards: Shards) -> None:
    """Measures the images that are missing in the shards."""
    import numpy as np

    from iddpm_jax.data.image_batches import image_batches
    from iddpm_jax.distributed.progress_bar import progress_bar
    from iddpm_jax.evaluation.step_costs import make_measure

    total, done = len(indices), shards.done()
    if done:
        print(f"continuing after {done:,} finished images")
    measure = make_measure(d, betas, model, mesh, _SEED.value)
    batches = image_batches(source.batch, indices, size, done)
    steps = -(-(total - done) // size) * d.num_timesteps
    with progress_bar(steps, 0, "timesteps") as bar:
        for start, batch in zip(range(done, total, size), batches, strict=True):
            costs = measure(batch, bar.update)._asdict()
            count = min(size, total - start)
            shards.write(start, count, {**costs, "count": np.float64(batch.count)})


def _search(shards: Shards, num_timesteps: int, candidates, model, workdir: pathlib.Path):
    """The best timesteps for what was measured, and the file that they are in."""
    import numpy as np

    from iddpm_jax import diffusion as dm
    from iddpm_jax.evaluation.step_costs import mean_costs
    from iddpm_jax.files.respacing_table import RespacingTable, save_table

    bounds, kept = dm.best_timesteps(mean_costs(shards, num_timesteps), num_timesteps)
    if candidates is not None:
        kept = np.where(kept >= 0, candidates[kept], -1)
    table = RespacingTable(bounds, kept, np.int64(model.step), np.str_(model.ema))
    return save_table(workdir, table), table


def _candidates(num_timesteps: int) -> np.ndarray | None:
    """The timesteps to choose from, where not all of them."""
    from iddpm_jax import diffusion as dm

    if num_timesteps <= _CANDIDATES.value:
        return None
    return dm.space_timesteps(num_timesteps, f"exact{_CANDIDATES.value}")


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
