"""Trains a diffusion model, or continues to.

    python main.py --config=configs/digits.py --workdir=runs/digits

Any key of the configuration can be given: --config.train.num_steps=10000
"""

import pathlib
import sys
from contextlib import ExitStack

from iddpm_jax import huge_pages

if __name__ == "__main__":
    huge_pages.restart_with()  # Before the imports that take seconds.

from absl import app, flags
from ml_collections import config_flags

from iddpm_jax import compilation_cache, configuration, factory, launch, own_code, processes
from iddpm_jax.command_line import configure_logging, parse_flags, reason
from iddpm_jax.config import defaults
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
    launch.join()
    directory = pathlib.Path(_WORKDIR.value).absolute()
    with ExitStack() as held:
        try:
            configuration.check_config(config, defaults.get_config())
            # The recipe is the user's, and so is what it names.
            own_code.allow(configuration.flat_config(config))
            run = factory.build_training(config, workdir.known_labels(_WORKDIR.value))
            processes.on_first(lambda: _open_workdir(run, held))
        except (ValueError, processes.PeerError) as error:
            processes.fail(error)
        compilation_cache.enable(directory.parent)
        try:
            loop.train(run, directory, launch.peer_timeout())
        except (CheckpointError, DataError, loop.NonFiniteError) as error:
            processes.fail(error)
        except OSError as error:
            processes.fail(f"{directory} cannot be written: {error}")


def _open_workdir(run: loop.Training, held: ExitStack) -> None:
    """Makes the work directory this run's, and no other process's as long as it is `held`."""
    directory = workdir.open_workdir(
        _WORKDIR.value, run.config, factory.MAY_CHANGE, defaults.get_config().to_dict()
    )
    held.enter_context(workdir.lock(directory))
    if run.class_names:
        workdir.write_labels(directory, run.class_names)


if __name__ == "__main__":
    configure_logging()
    flags.adopt_module_key_flags(launch)
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=parse_flags)
