"""Writes a work directory's newest checkpoint as files of PyTorch.

    python -m iddpm_jax.export_torch --workdir=runs/digits --out=exported

makes model….pt, one ema_….pt for each average, and opt….pt, as OpenAI's improved-diffusion
writes and reads them.
"""

import pathlib

from iddpm_jax.cli import command, shared_flags, torch_flags
from iddpm_jax.cli.path_flag import define_required_path
from iddpm_jax.config.recipes import load_recorded
from iddpm_jax.torch_io import conventions

_WORKDIR = shared_flags.workdir()
_OUT = define_required_path("out", "Directory to write the files into.")
_ATTENTION_ORDER = torch_flags.attention_order()
_TORCH_MICROBATCH = torch_flags.torch_microbatch()
_TORCH_BATCH_SIZE = torch_flags.torch_batch_size()


def main() -> None:
    workdir = pathlib.Path(_WORKDIR.value)
    load_recorded(workdir)  # Refused before JAX is imported.
    target = conventions.chosen(
        workdir,
        attention_order=_ATTENTION_ORDER.value,
        batch_size=_TORCH_BATCH_SIZE.value,
        microbatch=_TORCH_MICROBATCH.value,
    )

    import jax

    from iddpm_jax.config.convert_torch import export_run

    jax.config.update("jax_platforms", "cpu")  # Nothing is computed.
    export_run(workdir, pathlib.Path(_OUT.value), target)


# Quiet: Orbax warns of what is meant.
run = command(main, required=["workdir", "out"], quiet=True)

if __name__ == "__main__":
    run()
