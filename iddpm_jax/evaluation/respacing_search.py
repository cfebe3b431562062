"""The search for the timesteps with the best likelihood, as the dp_respacing command makes it.

One pass over images measures what every step from t to s costs in bits/dim; dynamic programming
finds the cheapest path of K steps, for every K (Watson et al. 2021). What was stopped continues.
"""

import pathlib

import numpy as np

from iddpm_jax import diffusion as dm
from iddpm_jax.distributed.mesh import make_mesh
from iddpm_jax.distributed.progress_bar import progress_bar
from iddpm_jax.errors import SMALLER_BATCHES, explain_out_of_memory
from iddpm_jax.evaluation.images import ImageChoice, Images, open_images
from iddpm_jax.evaluation.step_costs import make_measure, mean_costs
from iddpm_jax.evaluation.trained_model import TrainedModel
from iddpm_jax.files.output_directory import (
    lock_and_record,
    remove_shards_and_record,
    remove_shards_of_other_settings,
)
from iddpm_jax.files.respacing_table import RespacingTable, save_table
from iddpm_jax.files.shards import Shards

_RECORD = "settings.json"
_ADVICE = "move it away"
_SHOWN = (2, 5, 10, 25, 50, 100, 250)  # Numbers of steps in the report.


def search_timesteps(
    model: TrainedModel, choice: ImageChoice, num_candidates: int, seed: int, workdir: str
) -> None:
    """Measures the images that are missing, writes the table, and prints some of it.

    Args:
      num_candidates: timesteps to choose from, spread evenly, where there are more.
      seed: of the noise.
      workdir: the model's, where the table goes.

    Raises:
      UsageError: the images will not do, or the directory cannot be written.
    """
    images = open_images(model, choice, make_mesh())
    betas = model.betas
    assert betas is not None, "refuse_without_likelihood comes first"
    num_timesteps, candidates, respacing = betas.size, np.arange(betas.size), ""
    if num_candidates < num_timesteps:
        respacing = f"exact{num_candidates}"
        candidates = dm.space_timesteps(num_timesteps, respacing)
        betas = dm.respaced_betas(betas, candidates)
    d = model.build_diffusion(respacing)
    dm.check_searchable(d)
    settings = {
        **model.identity(),
        "split": choice.split,
        "images": images.source.fingerprint,
        "num_images": len(images),
        "candidates": d.num_timesteps,
        "seed": seed,
    }
    directory = pathlib.Path(workdir).absolute()
    scratch = directory / "dp_respacing"
    remove_shards_of_other_settings(scratch, settings, _RECORD, _ADVICE)
    with lock_and_record(scratch, settings, _RECORD, _ADVICE):
        shards = Shards(scratch / "shards", len(images))
        _measure_missing(model, d, betas, seed, images, shards)
        bounds, kept = dm.best_timesteps(mean_costs(shards, d.num_timesteps), d.num_timesteps)
        kept = np.where(kept >= 0, candidates[kept], -1)
        table = RespacingTable(
            bounds,
            kept.astype(np.int32),
            np.asarray(settings["step"], np.int64),
            np.asarray(settings["ema"]),
        )
        path = save_table(directory, table)
        remove_shards_and_record(scratch, _RECORD)
    print(_report(path, table, num_timesteps))


@explain_out_of_memory(SMALLER_BATCHES)
def _measure_missing(
    model: TrainedModel,
    d: dm.GaussianDiffusion,
    betas: np.ndarray,
    seed: int,
    images: Images,
    shards: Shards,
) -> None:
    """Measures the images that are missing in the shards."""
    done = shards.done()
    if done:
        print(f"continuing after {done:,} finished images")
    measure = make_measure(
        d, betas, model.fast_model, model.params, make_mesh(), seed=seed, low_res=model.low_res
    )
    steps = -(-(len(images) - done) // images.batch_size) * d.num_timesteps
    with progress_bar(steps, 0, "timesteps") as bar:
        for start, count, batch in images.batches(done):
            costs = measure(batch, bar.update)._asdict()
            shards.write(start, count, {**costs, "count": np.asarray(batch.num_valid, np.float64)})


def _report(path: pathlib.Path, table: RespacingTable, num_timesteps: int) -> str:
    lines = ["steps: estimated bits/dim, timesteps"]
    for count in (count for count in _SHOWN if count < len(table.bounds)):
        kept = table.timesteps[count, :count]
        text = ", ".join(map(str, kept if count <= 10 else [*kept[:5], "…", *kept[-4:]]))
        lines.append(f"dp{count}: {table.bounds[count]:.4f}, {text}")
    lines.append(f"all {num_timesteps:,}, or any number, as --respacing=dp25: {path}")
    return "\n".join(lines)
