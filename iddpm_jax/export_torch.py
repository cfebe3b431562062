"""Writes a work directory's newest checkpoint as files of PyTorch.

    python -m iddpm_jax.export_torch --workdir=runs/digits --out=exported

makes model….pt, one ema_….pt for each average, and opt….pt, as OpenAI's improved-diffusion
writes and reads them.
"""

import pathlib
import sys

import jax
from absl import app, flags, logging

from iddpm_jax import configuration, factory, torch_run
from iddpm_jax.config import defaults
from iddpm_jax.errors import UsageError
from iddpm_jax.torch_files import require_torch
from iddpm_jax.training.workdir import read_config

_WORKDIR = flags.DEFINE_string("workdir", None, "Work directory of the trained model.")
_OUT = flags.DEFINE_string("out", None, "Directory to write the files into.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(f"error: {argv[1]!r} is not a flag; see python -m iddpm_jax.export_torch --help")
    workdir = pathlib.Path(_WORKDIR.value)
    try:
        require_torch()
        if not _OUT.value.strip():
            raise UsageError("--out is empty: name a directory")
        if not (workdir / "config.json").exists():
            raise UsageError(f"{workdir} is not a work directory: it has no config.json")
        config = configuration.config_from_dict(read_config(workdir))
        configuration.check_config(config, defaults.get_config())
        state = torch_run.restore(workdir, config, factory.build_model(config))
        for path in torch_run.write_run(state, config, pathlib.Path(_OUT.value)):
            print(path)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def run() -> None:
    """The command line."""
    logging.set_verbosity(logging.ERROR)  # Orbax warns of what is meant.
    jax.config.update("jax_platforms", "cpu")  # Nothing is computed.
    flags.mark_flags_as_required(["workdir", "out"])
    app.run(main)


if __name__ == "__main__":
    run()
