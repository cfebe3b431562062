"""Reading checkpoints, or parts of them, that may be damaged, removed or still being written."""

import gc
import logging as python_logging
import pathlib
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp
from absl import logging

from iddpm_jax.training.checkpoint_items import CheckpointError, read_meta, verify
from iddpm_jax.training.checkpoint_writer import complete_steps, this_host_only
from iddpm_jax.training.identity import RunIdentity

T = TypeVar("T")

# Checkpoints that are removed while they are read, one after the other, before giving up.
_MOST_REMOVED = 100


def read_newest(directory: pathlib.Path, read: Callable[[int], T]) -> tuple[T, int]:
    """Reads the newest checkpoint that is sound, with a warning for every newer one.

    Another program may be saving: if a checkpoint is gone by the time it is read, there is a newer
    one.

    Args:
      read: a step to what its checkpoint holds, or CheckpointError.

    Returns:
      What `read` returned, and the step.

    Raises:
      CheckpointError: of the newest checkpoint, if none can be read; or there is none.
    """
    failed: set[int] = set()
    first_error = None
    removed = 0
    while steps := [step for step in complete_steps(directory) if step not in failed]:
        try:
            return read(steps[-1]), steps[-1]
        except CheckpointError as error:
            if removed < _MOST_REMOVED and not (directory / str(steps[-1])).is_dir():
                removed += 1
                continue
            failed.add(steps[-1])
            first_error = first_error or error
            logging.warning("%s", error)
    raise first_error or CheckpointError(
        f"{directory.parent} has no complete checkpoint; train first"
    )


def read_item(directory: pathlib.Path, name: str, abstract: Any, **options) -> Any:
    """Reads one item of the checkpoint in `directory`.

    Args:
      name: the item.
      abstract: shapes, dtypes and shardings of its arrays.
      options: of `ocp.args.PyTreeRestore`.

    Raises:
      CheckpointError: it cannot be read, or has other arrays.
    """
    failure = f"the checkpoint {directory} cannot be read"

    def read() -> Any:
        handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=this_host_only())
        with ocp.Checkpointer(handler, multiprocessing_options=this_host_only()) as checkpointer:
            restore_args = ocp.checkpoint_utils.construct_restore_args(abstract)
            args = ocp.args.PyTreeRestore(abstract, restore_args=restore_args, **options)
            return checkpointer.restore(directory / name, args)

    tree = _refusing_damage(read, failure)
    expected, structure = jax.tree.flatten(abstract)
    found = jax.tree.leaves(tree)
    same = jax.tree.structure(tree) == structure and all(
        isinstance(leaf, jax.Array) and (leaf.shape, leaf.dtype) == (like.shape, like.dtype)
        for leaf, like in zip(found, expected, strict=True)
    )
    if not same:
        raise CheckpointError(f"{failure}: its item {name} has other arrays than the network")
    return tree


def _refusing_damage(call: Callable[[], Any], failure: str) -> Any:
    """Calls `call`; CheckpointError for whatever Orbax raises for damaged files."""
    hook, logger = sys.unraisablehook, python_logging.getLogger("asyncio")
    level = logger.level

    def quiet(raised) -> None:
        if "Event loop is closed" not in str(raised.exc_value):
            hook(raised)

    # Where one read fails, Orbax leaves hundreds of others behind, and each of them complains.
    sys.unraisablehook = quiet
    logger.setLevel(python_logging.CRITICAL + 1)
    try:
        try:
            return call()
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            message = f"{failure} ({type(error).__name__}: {reason})"
        gc.collect()  # Now, and not whenever; `error`, which holds on to them, is gone.
        raise CheckpointError(message)
    finally:
        sys.unraisablehook = hook
        logger.setLevel(level)


def load_params(
    workdir: pathlib.Path, ema: str, abstract_params: Any, run: RunIdentity
) -> tuple[Any, int]:
    """Reads parameters alone, without the rest of the state, from the newest sound checkpoint.

    Args:
      workdir: the work directory.
      ema: decay of an average, as `str(decay)`, or "none" for the parameters themselves.
      abstract_params: shapes, dtypes and shardings.
      run: the run that the checkpoint has to be of.

    Returns:
      The parameters, and the step that they are of.

    Raises:
      CheckpointError: there is no complete checkpoint, or none is sound.
    """
    directory = (workdir / "checkpoints").absolute()
    name, abstract = (
        ("params", abstract_params) if ema == "none" else ("ema", {ema: abstract_params})
    )

    def read(step: int) -> Any:
        path = directory / str(step)
        meta, _ = read_meta(path, run)
        tree = read_item(path, name, abstract, partial_restore=True)
        verify(path, name, tree, meta)
        return tree if ema == "none" else tree[ema]

    return read_newest(directory, read)
