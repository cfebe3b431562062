"""What is wrong with a work directory, as the check_workdir command finds it."""

import pathlib
from collections.abc import Iterator

import jax

from iddpm_jax.config.build_state import build_abstract_state
from iddpm_jax.config.record import config_from_dict, run_identity
from iddpm_jax.errors import UsageError
from iddpm_jax.files.workdir import known_labels, read_config
from iddpm_jax.training.checkpoints import Checkpoints
from iddpm_jax.training.verification import problem_of_log, problems_of_checkpoints


def findings(workdir: pathlib.Path) -> Iterator[tuple[str, str]]:
    """Yields what was looked at, and what is wrong with it or ""."""
    jax.config.update("jax_platforms", "cpu")  # Nothing is computed.
    try:
        config = config_from_dict(read_config(workdir))
        yield "config.json", ""
    except UsageError as error:
        yield "config.json", str(error)
        return
    names = None
    try:
        names = known_labels(workdir)
        yield "labels.json", ""
    except UsageError as error:
        yield "labels.json", str(error)
    yield "metrics.jsonl", problem_of_log(workdir / "metrics.jsonl")
    try:
        abstract = build_abstract_state(config)
    except UsageError as error:
        yield "checkpoints", str(error)
        return
    run = run_identity(config, names)
    checkpoints = Checkpoints(workdir, keep=1, run=run, read_only=True)
    if not checkpoints.directory.is_dir() or not checkpoints.steps():
        yield "checkpoints", "there are none"
        return
    for step, problem in problems_of_checkpoints(checkpoints, abstract):
        yield f"checkpoint {step}", problem
