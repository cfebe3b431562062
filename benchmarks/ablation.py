"""The paper's ablation (Nichol & Dhariwal 2021, table 2) on handwritten digits.

    python -m benchmarks.ablation --out=runs/ablation

trains the digits network with every objective and schedule, from the same seeds with the same
budget, and writes table.md and the plot vlb.png: bits/dim of held-out digits, and the Fréchet
distance of samples (benchmarks/digits_judge.py). A run that was stopped continues. The
command may be started several times at once: each process takes runs that no other has, which uses
two cores better than one process does.
"""

import json
import math
import pathlib

import numpy as np
from absl import app, flags, logging

import iddpm_jax
from benchmarks.digits_judge import classifier, features, frechet_distance
from iddpm_jax.cli import compilation_cache
from iddpm_jax.config.build_training import build_training
from iddpm_jax.data import digits_source
from iddpm_jax.data.image_batches import image_batches
from iddpm_jax.distributed.mesh import make_mesh
from iddpm_jax.evaluation.bound import make_bound, summarise
from iddpm_jax.files.atomic import write_atomically, write_json
from iddpm_jax.files.lock import LockedError, lock
from iddpm_jax.files.plots import save_curves_plot
from iddpm_jax.files.workdir import open_workdir
from iddpm_jax.recipes import digits
from iddpm_jax.training import loop

_OUT = flags.DEFINE_string("out", "runs/ablation", "Directory of all runs and the table.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "Runs of each kind.", lower_bound=1)
_TRAIN = flags.DEFINE_integer("train_steps", 1500, "Training steps of each run.", lower_bound=1)
_STEPS = flags.DEFINE_integer("diffusion_steps", 250, "T.", lower_bound=2)
_SAMPLES = flags.DEFINE_integer("num_samples", 500, "Samples of each run.", lower_bound=65)

SCHEDULES = ("linear", "cosine")
OBJECTIVES = {
    "L_simple": {},
    "L_hybrid": {"diffusion.learn_sigma": True},
    "L_vlb": {
        "diffusion.learn_sigma": True,
        "diffusion.use_kl": True,
        "train.schedule_sampler": "loss-second-moment",
    },
    "L_vlb, uniform": {"diffusion.learn_sigma": True, "diffusion.use_kl": True},
}
# CIFAR-10, T = 4000, 500 K iterations: bits/dim and FID.
PAPER = {
    ("L_simple", "linear"): "3.37 / 2.90",
    ("L_hybrid", "linear"): "3.26 / 3.07",
    ("L_simple", "cosine"): "3.26 / 3.05",
    ("L_hybrid", "cosine"): "3.17 / 3.19",
    ("L_vlb", "cosine"): "2.94 / 11.47",
}


def make_config(objective: str, schedule: str, seed: int):
    """The digits recipe with another objective, schedule and budget."""
    config = digits.get_config()
    config.diffusion.steps = _STEPS.value
    config.diffusion.noise_schedule = schedule
    config.diffusion.learn_sigma = False
    config.train.num_steps = _TRAIN.value
    config.train.seed = seed
    config.train.log_every = 25
    config.train.checkpoint_every = 500
    config.train.keep_checkpoints = 1
    config.train.sample_every = 0
    config.train.sample_respacing = ""
    config.update_from_flattened_dict(OBJECTIVES[objective])
    return config


def run_name(objective: str, schedule: str, seed: int) -> str:
    return f"{objective}_{schedule}_seed{seed}".replace(", ", "_")


def complete_run(directory: pathlib.Path, config, judge) -> None:
    """Trains and measures one run, or what is left of it."""
    # All keys count: a result of another budget is no result.
    open_workdir(str(directory), config.to_dict(), may_change=())
    if (directory / "result.json").exists():
        return
    with lock(directory):
        loop.train(build_training(config), directory)
        model = iddpm_jax.load(str(directory))
        source = digits_source("test")
        bound = make_bound(
            model.build_diffusion(""), model.fast_model, model.params, make_mesh(), seed=0
        )
        batches = image_batches(source.batch, np.arange(len(source)), 99)
        summary = summarise(map(bound, batches))
        images = model.sample(
            _SAMPLES.value, respacing="exact50" if _STEPS.value > 50 else "", batch_size=250
        )
        distance = frechet_distance(features(judge, images), features(judge, source.images))
        numbers = {key: value for key, value in summary._asdict().items() if key != "terms"}
        write_json(directory / "result.json", {**numbers, "frechet_distance": distance})


def write_table(out: pathlib.Path) -> None:
    """`table.md` from the runs that are complete."""
    lines = [
        f"{_SEEDS.value} seeds, {_TRAIN.value:,} training steps, T = {_STEPS.value}; mean ± "
        "standard error over the seeds. Paper: bits/dim / FID on CIFAR-10, T = 4000, 500 K steps.",
        "",
        "| schedule | objective | bits/dim | decoder's part | Fréchet distance | paper |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for schedule in SCHEDULES:
        for objective in OBJECTIVES:
            results = _results(out, objective, schedule)
            if not results:
                continue
            cells = [
                _mean_and_error([result[key] for result in results])
                for key in ("bits_per_dim", "decoder_bpd", "frechet_distance")
            ]
            paper = PAPER.get((objective, schedule), "")
            lines.append(f"| {schedule} | {objective} | {' | '.join(cells)} | {paper} |")
    write_atomically(out / "table.md", ("\n".join(lines) + "\n").encode())
    print("\n".join(lines))


def _results(out: pathlib.Path, objective: str, schedule: str) -> list[dict]:
    files = [
        out / run_name(objective, schedule, seed) / "result.json" for seed in range(_SEEDS.value)
    ]
    return [json.loads(file.read_text(encoding="utf-8")) for file in files if file.exists()]


def _mean_and_error(values: list[float]) -> str:
    error = np.std(values, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{np.mean(values):.3f} ± {error:.3f}"


def write_plot(out: pathlib.Path) -> None:
    """`vlb.png`: L_vlb over the steps, with and without importance sampling (figure 6)."""
    curves = {}
    for schedule in SCHEDULES:
        for objective, how in {"L_vlb": "importance", "L_vlb, uniform": "uniform"}.items():
            logs = [
                _losses(out / run_name(objective, schedule, seed)) for seed in range(_SEEDS.value)
            ]
            logs = [log for log in logs if log.size]
            if logs:
                steps = logs[0][:, 0]
                curves[f"{schedule}, {how}"] = (steps, np.mean([log[:, 1] for log in logs], axis=0))
    if curves:
        save_curves_plot(out / "vlb.png", curves, "training step", "L_vlb in bits per dimension")


def _losses(directory: pathlib.Path) -> np.ndarray:
    """(step, loss) of every line of a finished run's log."""
    if not (directory / "result.json").exists():
        return np.zeros((0, 2))
    lines = (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return np.array([[row["step"], row["loss"]] for row in map(json.loads, lines)])


def main(_) -> None:
    out = pathlib.Path(_OUT.value).absolute()
    compilation_cache.enable(out)
    judge = classifier()
    busy = []
    for seed in range(_SEEDS.value):
        for schedule in SCHEDULES:
            for objective in OBJECTIVES:
                name = run_name(objective, schedule, seed)
                print(f"=== {name}", flush=True)
                try:
                    complete_run(out / name, make_config(objective, schedule, seed), judge)
                except LockedError:
                    busy.append(name)
    if busy:
        print(f"another process is busy with: {', '.join(busy)}")
    write_table(out)
    write_plot(out)


if __name__ == "__main__":
    logging.set_verbosity(logging.WARNING)
    app.run(main)
