"""The work directory of a run that is under way."""

import contextlib
import pathlib
from collections.abc import Iterator

from iddpm_jax import distributed
from iddpm_jax.files.lock import lock
from iddpm_jax.files.workdir import open_workdir, write_labels
from iddpm_jax.training.identity import RunIdentity


@contextlib.contextmanager
def locked_workdir(directory: pathlib.Path, run: RunIdentity) -> Iterator[None]:
    """Locks a work directory, and records the run's configuration and the names of its classes.

    While entered, no other program writes it. All hosts of the run enter together; the first one
    holds the lock for them.

    Raises:
      UsageError: the directory holds another run, cannot be written, or another program is
        writing it.
    """
    with contextlib.ExitStack() as held:

        def lock_and_record() -> None:
            held.enter_context(lock(directory))
            open_workdir(str(directory), run.config, run.may_change)
            if run.class_names:
                write_labels(directory, run.class_names)

        distributed.on_first(lock_and_record)
        yield
