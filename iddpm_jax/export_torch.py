"""Writes a work directory's newest checkpoint as files of PyTorch.

    python -m iddpm_jax.export_torch --workdir=runs/digits --out=exported

makes model….pt, one ema_….pt for each average, and opt….pt, as OpenAI's improved-diffusion
writes and reads them.
"""

import pathlib
import sys

import jax
from absl import app, flags, logging

from iddpm_jax import configuration, factory, torch_conventions, torch_run
from iddpm_jax.config import defaults
from iddpm_jax.errors import UsageError
from iddpm_jax.torch_files import require_torch
from iddpm_jax.training.workdir import read_config

_WORKDIR = flags.DEFINE_string("workdir", None, "Work directory of the trained model.")
_OUT = flags.DEFINE_string("out", None, "Directory to write the files into.")
_ATTENTION_ORDER = flags.DEFINE_enum(
    "attention_order",
    None,
    list(torch_conventions.ATTENTION_ORDERS),
    "Order of queries, keys and values: legacy, for improved-diffusion, or new, for "
    "guided-diffusion with use_new_attention_order. By default as imported, or legacy.",
)
_TORCH_MICROBATCH = flags.DEFINE_integer(
    "torch_microbatch",
    None,
    "The --microbatch of the PyTorch run that is to go on, on each of its ranks; -1: none. By "
    "default as imported, or none.",
    lower_bound=-1,
)
_TORCH_BATCH_SIZE = flags.DEFINE_integer(
    "torch_batch_size", None, "Its --batch_size, on each of its ranks.", lower_bound=1
)


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
        conventions = _conventions(workdir)
        state = torch_run.restore(workdir, config, factory.build_model(config))
        for path in torch_run.write_run(state, config, pathlib.Path(_OUT.value), conventions):
            print(path)
        if conventions.attention_order != "legacy":
            print("attention is ordered for guided-diffusion's use_new_attention_order")
        if conventions.microbatches() > 1:
            print(
                f"the optimiser's state is that of {conventions.microbatches()} microbatches on "
                f"each rank: --batch_size {conventions.batch_size} "
                f"--microbatch {conventions.microbatch}"
            )
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def _conventions(workdir: pathlib.Path) -> torch_conventions.Conventions:
    """Those of the import, where no flag says otherwise."""
    flags_given = {
        "attention_order": _ATTENTION_ORDER.value,
        "batch_size": _TORCH_BATCH_SIZE.value,
        "microbatch": _TORCH_MICROBATCH.value,
    }
    given = {name: value for name, value in flags_given.items() if value is not None}
    return torch_conventions.check(torch_conventions.recorded(workdir)._replace(**given))


def run() -> None:
    """The command line."""
    logging.set_verbosity(logging.ERROR)  # Orbax warns of what is meant.
    jax.config.update("jax_platforms", "cpu")  # Nothing is computed.
    flags.mark_flags_as_required(["workdir", "out"])
    app.run(main)


if __name__ == "__main__":
    run()
