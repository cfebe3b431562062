"""Searches the timesteps with the best likelihood, for every number of steps at once.

    python -m iddpm_jax.dp_respacing --workdir=runs/digits --split=test

Afterwards `--respacing=dp25` works in the sample and nll commands, with any number. The search is
that of Watson et al. (2021): one pass over the images measures what every step from t to s costs in
bits/dim, and dynamic programming finds the cheapest path of K steps.
"""

import functools
import pathlib
import shutil
import sys

import jax
import numpy as np
from absl import app, flags, logging
from jax.sharding import NamedSharding, PartitionSpec

from iddpm_jax import compilation_cache, trained
from iddpm_jax import diffusion as dm
from iddpm_jax.errors import UsageError
from iddpm_jax.evaluation.generation import batch_size_for
from iddpm_jax.evaluation.image_batches import ImageBatch, image_batches, spread_indices
from iddpm_jax.evaluation.respacing_table import RespacingTable, save_table
from iddpm_jax.evaluation.shards import Shards, claim
from iddpm_jax.progress_bar import progress_bar
from iddpm_jax.training import sharding

_WORKDIR = flags.DEFINE_string("workdir", None, "Work directory of the trained model.")
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
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the noise.", lower_bound=0, upper_bound=2**32 - 1)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"error: {argv[1]!r} is not a flag; see python -m iddpm_jax.dp_respacing --help")
    try:
        _search()
    except ValueError as error:
        sys.exit(f"error: {error}")


def _search() -> None:
    model = trained.load(_WORKDIR.value, _EMA.value, trust_code=_TRUST.value)
    model.refuse_without_likelihood("dp_respacing")
    source = model.open_source(_SPLIT.value)
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
    if num_timesteps <= _CANDIDATES.value:
        return None
    return dm.space_timesteps(num_timesteps, f"exact{_CANDIDATES.value}")


def _mean(shards: Shards) -> dm.Costs:
    """The costs of all batches, per image that counted."""
    sums: dict[str, np.ndarray] = {}
    for part in shards.read():
        sums = {name: sums.get(name, 0.0) + value for name, value in part.items()}
    count = sums.pop("count")
    if not count:
        raise UsageError("there was no image that can be used")
    return dm.Costs(**{name: value / count for name, value in sums.items()})


def make_measure(d: dm.GaussianDiffusion, betas: np.ndarray, model, mesh, seed: int):
    """A function `(batch, on_timestep) -> Costs` in float64, summed over the batch's images."""
    rows = NamedSharding(mesh, PartitionSpec("data"))
    everywhere = NamedSharding(mesh, PartitionSpec())
    params, tables = jax.device_put((model.params, dm.pair_tables(betas)), everywhere)

    @functools.partial(jax.jit, out_shardings=everywhere)
    def row(params, tables, images, labels, indices, weights, t):
        keys = dm.stream_keys(seed, dm.Stream.NLL_NOISE, indices)
        low_res = None
        if model.low_res is not None:
            low_res_keys = dm.stream_keys(seed, dm.Stream.NLL_LOW_RES, indices)
            low_res = model.low_res(images, low_res_keys)

        def model_fn(x_t, timestep):
            return model.model.apply({"params": params}, x_t, timestep, y=labels, low_res=low_res)

        noise = dm.per_sample_noise(keys, t, images.shape[1:])
        return dm.transition_costs(d, tables, model_fn, images, t, noise, weights)

    prior = jax.jit(functools.partial(dm.prior_costs, d), out_shardings=everywhere)

    def measure(batch: ImageBatch, on_timestep=lambda: None) -> dm.Costs:
        labels = batch.labels if model.num_classes else None
        images, labels, indices, weights = jax.device_put(
            (batch.images, labels, batch.indices, batch.valid.astype(np.float32)), rows
        )
        found = []
        for t in range(d.num_timesteps):
            costs = row(params, tables, images, labels, indices, weights, np.int32(t))
            found.append(jax.device_get(costs))
            on_timestep()
        transition, decoder = (np.asarray(x, np.float64) for x in zip(*found, strict=True))
        return dm.Costs(transition, decoder, np.asarray(prior(images, weights), np.float64))

    return measure


def _report(path: pathlib.Path, table: RespacingTable, num_timesteps: int) -> None:
    print("steps: estimated bits/dim, timesteps")
    shown = [k for k in (2, 5, 10, 25, 50, 100, 250) if k < len(table.bounds)]
    for count in shown:
        kept = table.timesteps[count, :count]
        text = ", ".join(map(str, kept if count <= 10 else [*kept[:5], "…", *kept[-4:]]))
        print(f"dp{count}: {table.bounds[count]:.4f}, {text}")
    print(f"all {num_timesteps:,}, or any number, as --respacing=dp25: {path}")


def run() -> None:
    """The command line."""
    logging.set_verbosity(logging.WARNING)
    flags.mark_flag_as_required("workdir")
    app.run(main)


if __name__ == "__main__":
    run()
