"""Trains a diffusion model, or continues to.

    python main.py --config=configs/digits.py --workdir=runs/digits

Any key of the configuration can be given: --config.train.num_steps=10000
"""

import sys

from absl import app, flags, logging
from ml_collections import config_flags

from configs import default
from iddpm_jax import compilation_cache, factory
from iddpm_jax.training import loop, workdir

_CONFIG = config_flags.DEFINE_config_file("config", None, "Recipe, such as configs/digits.py.")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory for checkpoints, samples and metrics; the run in it continues."
)


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line, and says of a wrong configuration key what is wrong with it."""
    try:
        return flags.FLAGS(argv)
    except (AttributeError, KeyError):
        known = factory.flat_config(default.get_config())
        given = [a.removeprefix("--config.").split("=")[0] for a in argv if "--config." in a]
        wrong = [key for key in given if key not in known]
        if not wrong:
            raise
        sys.exit(f"error: {factory.unknown_key_message(wrong[0], known)}")
    except (flags.Error, OSError) as error:
        sys.exit(f"error: {error}\nSee python main.py --help")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"error: {argv[1]!r} is not a flag; see python main.py --help")
    try:
        config = _CONFIG.value
        factory.check_config(config, default.get_config())
        run = factory.build_training(config)
        directory = workdir.open_workdir(_WORKDIR.value, run.config, factory.MAY_CHANGE)
        workdir.write_labels(directory, run.class_names)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    compilation_cache.enable(directory.parent)
    try:
        loop.train(run, directory)
    except loop.NonFiniteError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    logging.set_verbosity(logging.WARNING)
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=parse_flags)
