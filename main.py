"""Trains a diffusion model, or continues to.

    python main.py --config=configs/digits.py --workdir=runs/digits

Any key of the configuration can be given: --config.train.num_steps=10000
"""

import sys

from absl import app, flags
from ml_collections import config_flags

from configs import default
from iddpm_jax import compilation_cache, configuration, factory
from iddpm_jax.command_line import configure_logging, parse_flags, reason
from iddpm_jax.training import loop, workdir
from iddpm_jax.training.checkpoints import CheckpointError
from iddpm_jax.training.prefetch import DataError

_CONFIG = config_flags.DEFINE_config_file("config", None, "Recipe, such as configs/digits.py.")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory for checkpoints, samples and metrics; the run in it continues."
)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"error: {argv[1]!r} is not a flag; see python main.py --help")
    try:
        config = _CONFIG.value
    except Exception as error:
        sys.exit(f"error: {reason(error)}")
    try:
        configuration.check_config(config, default.get_config())
        run = factory.build_training(config, workdir.known_labels(_WORKDIR.value))
        directory = workdir.open_workdir(
            _WORKDIR.value, run.config, factory.MAY_CHANGE, default.get_config().to_dict()
        )
    except ValueError as error:
        sys.exit(f"error: {error}")
    if run.class_names:
        workdir.write_labels(directory, run.class_names)
    compilation_cache.enable(directory.parent)
    try:
        with workdir.lock(directory):
            loop.train(run, directory)
    except (workdir.LockedError, CheckpointError, DataError, loop.NonFiniteError) as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {directory} cannot be written: {error}")


if __name__ == "__main__":
    configure_logging()
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=parse_flags)
