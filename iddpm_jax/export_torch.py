"""Writes a work directory's newest checkpoint as files of PyTorch.

    python -m iddpm_jax.export_torch --workdir=runs/digits --out=exported

makes model….pt, one ema_….pt for each average, and opt….pt, as OpenAI's improved-diffusion
writes and reads them.
"""

import pathlib

from absl import flags

from iddpm_jax.cli import command, shared_flags
from iddpm_jax.config.recipes import load_recorded
from iddpm_jax.torch_io import conventions

_WORKDIR = shared_flags.workdir()
_OUT = shared_flags.out("Directory to write the files into.")
_ATTENTION_ORDER = flags.DEFINE_enum(
    "attention_order",
    None,
    list(conventions.ATTENTION_ORDERS),
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


def main() -> None:
    workdir = pathlib.Path(_WORKDIR.value)
    config = load_recorded(workdir)
    conventions = _conventions(workdir)

    import jax

    from iddpm_jax.config.build_model import build_model
    from iddpm_jax.torch_io import run
    from iddpm_jax.torch_io.files import require_torch

    require_torch()
    jax.config.update("jax_platforms", "cpu")  # Nothing is computed.
    state = run.restore(workdir, config, build_model(config))
    for path in run.write_run(state, config, pathlib.Path(_OUT.value), conventions):
        print(path)
    if conventions.attention_order != "legacy":
        print("attention is ordered for guided-diffusion's use_new_attention_order")
    if conventions.microbatches() > 1:
        print(
            f"the optimiser's state is that of {conventions.microbatches()} microbatches on each "
            f"rank: --batch_size {conventions.batch_size} --microbatch {conventions.microbatch}"
        )


def _conventions(workdir: pathlib.Path) -> conventions.Conventions:
    """Those of the import, where no flag says otherwise."""
    flags_given = {
        "attention_order": _ATTENTION_ORDER.value,
        "batch_size": _TORCH_BATCH_SIZE.value,
        "microbatch": _TORCH_MICROBATCH.value,
    }
    given = {name: value for name, value in flags_given.items() if value is not None}
    return conventions.check(conventions.recorded(workdir)._replace(**given))


# Quiet: Orbax warns of what is meant.
run = command(main, required=["workdir", "out"], quiet=True)

if __name__ == "__main__":
    run()
