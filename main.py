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
from iddpm_jax.training.checkpoints import CheckpointError

_CONFIG = config_flags.DEFINE_config_file("config", None, "Recipe, such as configs/digits.py.")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory for checkpoints, samples and metrics; the run in it continues."
)


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line; what is wrong with it or the recipe is said in one line."""
    known = factory.flat_config(default.get_config())
    given = [a.lstrip("-").split("=")[0] for a in argv if a.lstrip("-").startswith("config.")]
    unknown = [key for key in (k.removeprefix("config.") for k in given) if key not in known]
    try:
        if unknown:
            raise ValueError(factory.unknown_key_message(unknown[0], known))
        return flags.FLAGS(argv)
    # A recipe is a program and may fail in any way.
    except Exception as error:
        sys.exit(f"error: {_reason(error)}\nSee python main.py --help")


def _reason(error: BaseException) -> str:
    """What an error says, in one line, without the configurations that some print."""
    while error.__cause__ is not None:
        error = error.__cause__
    name = "" if type(error) in (ValueError, flags.Error) else f"{type(error).__name__}: "
    return name + " ".join(str(error).split())[:500]


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"error: {argv[1]!r} is not a flag; see python main.py --help")
    try:
        config = _CONFIG.value
    except Exception as error:
        sys.exit(f"error: {_reason(error)}")
    try:
        factory.check_config(config, default.get_config())
        run = factory.build_training(config)
        directory = workdir.open_workdir(_WORKDIR.value, run.config, factory.MAY_CHANGE)
    except ValueError as error:
        sys.exit(f"error: {error}")
    if run.class_names:
        workdir.write_labels(directory, run.class_names)
    compilation_cache.enable(directory.parent)
    try:
        with workdir.lock(directory):
            loop.train(run, directory)
    except (workdir.LockedError, CheckpointError, loop.NonFiniteError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    logging.set_verbosity(logging.WARNING)
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=parse_flags)
