"""Searches the timesteps with the best likelihood, for every number of steps at once.

    python -m iddpm_jax.dp_respacing --workdir=runs/digits --split=test

Afterwards `--respacing=dp25` works in the sample and nll commands, with any number. The search is
that of Watson et al. (2021): one pass over the images measures what every step from t to s costs in
bits/dim, and dynamic programming finds the cheapest path of K steps.
"""

import pathlib

from absl import flags

from iddpm_jax.cli import command, shared_flags
from iddpm_jax.config.recipes import load_recorded

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


def main() -> None:
    shared_flags.refuse_empty_split(_SPLIT.value)
    load_recorded(pathlib.Path(_WORKDIR.value))  # Refused before JAX is imported.

    from iddpm_jax import trained
    from iddpm_jax.evaluation.images import ImageChoice
    from iddpm_jax.evaluation.respacing_search import search_timesteps

    model = trained.load(_WORKDIR.value, _EMA.value, trust_code=_TRUST.value)
    model.refuse_without_likelihood("dp_respacing")
    images = ImageChoice(
        _SPLIT.value,
        _NUM.value,
        _BATCH.value,
        _DATA_DIR.value,
        _TEST_PERCENT.value,
        fewer_will_do=not _NUM.present,
    )
    search_timesteps(model, images, _CANDIDATES.value, _SEED.value, _WORKDIR.value)


run = command(main, required=["workdir"], continues=True)

if __name__ == "__main__":
    run()
