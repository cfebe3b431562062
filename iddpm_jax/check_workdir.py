"""Verifies everything in a work directory: every checkpoint, the configuration and the log.

    python -m iddpm_jax.check_workdir --workdir=runs/digits

Exits with 1 if something is damaged. Nothing is changed.
"""

import pathlib
import sys

from iddpm_jax.cli import command, shared_flags
from iddpm_jax.errors import UsageError

_WORKDIR = shared_flags.workdir("Work directory to verify.")


def main() -> None:
    workdir = pathlib.Path(_WORKDIR.value)
    if not workdir.is_dir():
        raise UsageError(f"{workdir} is not a directory")
    if not any((workdir / name).exists() for name in ("config.json", "checkpoints")):
        raise UsageError(
            f"{workdir} is not a work directory: it has neither a config.json nor checkpoints"
        )

    from iddpm_jax.config.verify_workdir import findings

    damaged = 0
    for what, problem in findings(workdir):
        print(f"{what}: {problem or 'sound'}", flush=True)
        damaged += bool(problem)
    if damaged:
        sys.exit(f"{damaged} damaged; training and sampling use the newest sound checkpoint")


run = command(main, required=["workdir"], quiet=True)

if __name__ == "__main__":
    run()
