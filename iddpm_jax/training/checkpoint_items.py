"""The items of a checkpoint: the parts of a state, and a `meta` item with their checksums."""

import pathlib
from collections.abc import Mapping
from typing import Any

import optax

from iddpm_jax.errors import UsageError
from iddpm_jax.files.untrusted import read_json
from iddpm_jax.training import checksums
from iddpm_jax.training.identity import RunIdentity
from iddpm_jax.training.state import TrainState

FORMAT_VERSION = 3
LOSS_SCALE = "log2_loss_scale"  # Among the counters, where there is one.

_META_TYPES = {
    "step": int,
    "config": dict,
    "class_names": (list, type(None)),
    "fingerprint": str,
    "checksums": dict,
}


class CheckpointError(UsageError):
    """A checkpoint is missing, damaged, of another format or of another run."""


def to_items(state: TrainState) -> dict[str, Any]:
    """The parts of a state by the name of their item; empty ones are not saved."""
    return {
        "params": state.params,
        "ema": state.ema,
        "opt": optax.tree.set(state.opt_state, ema=None),
        "timestep_sampler": state.sampler_state,
        "counters": {
            "step": state.step,
            "skipped": state.skipped,
            "skipped_in_row": state.skipped_in_row,
            "running": state.metrics,
            **({} if state.log2_loss_scale is None else {LOSS_SCALE: state.log2_loss_scale}),
        },
    }


def from_items(like: TrainState, items: Mapping[str, Any]) -> TrainState:
    """The inverse of `to_items`; `like` has the structure of the state."""
    counters = items["counters"]
    return like.replace(
        step=counters["step"],
        params=items["params"],
        opt_state=optax.tree.set(items["opt"], ema=items["ema"] if like.ema else {}),
        sampler_state=items["timestep_sampler"] if like.sampler_state else like.sampler_state,
        metrics=counters["running"],
        skipped=counters["skipped"],
        skipped_in_row=counters["skipped_in_row"],
        log2_loss_scale=counters.get(LOSS_SCALE),
    )


def make_meta(
    step: int, trees: Mapping[str, Any], data_state: dict, run: RunIdentity
) -> dict[str, Any]:
    """The meta item of a checkpoint.

    Args:
      trees: the other items, arrays in this host's memory.
      data_state: the data iterator's position, which the meta item's digest includes.
    """
    meta = {
        "format_version": FORMAT_VERSION,
        "step": step,
        **run.as_meta(),
        "checksums": {name: checksums.of_tree(tree) for name, tree in trees.items()},
    }
    meta["digest"] = _digest(meta, data_state)
    return meta


def read_meta(path: pathlib.Path, run: RunIdentity) -> tuple[dict[str, Any], dict]:
    """Reads the meta and data items of the checkpoint in the directory `path`.

    Raises:
      CheckpointError: they cannot be read, are damaged or of another format version; or the
        checkpoint is of another run, or of another step than its directory's name.
    """
    try:
        meta, data_state = (
            read_json(path / name / "metadata", f"its {name} item") for name in ("meta", "data")
        )
    except UsageError as error:
        raise CheckpointError(f"the checkpoint {path} cannot be read: {error}") from error
    if not isinstance(meta, dict) or not isinstance(data_state, dict):
        raise CheckpointError(f"the checkpoint {path} is damaged: its meta or data item")
    version = meta.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"the checkpoint {path} has format version {version!r}, this program reads version "
            f"{FORMAT_VERSION}"
        )
    typed = all(key in meta and isinstance(meta[key], types) for key, types in _META_TYPES.items())
    typed = typed and all(isinstance(known, dict) for known in meta["checksums"].values())
    if not typed or meta.get("digest") != _digest(meta, data_state):
        raise CheckpointError(f"the checkpoint {path} is damaged: its meta or data item")
    if str(meta["step"]) != path.name:
        raise CheckpointError(f"the checkpoint {path} is that of step {meta['step']}, renamed")
    difference = run.difference(meta)
    if difference:
        raise CheckpointError(f"the checkpoint {path} is of another run: {difference}")
    return meta, data_state


def _digest(meta: Mapping[str, Any], data_state: dict) -> str:
    return checksums.of_json([{k: v for k, v in meta.items() if k != "digest"}, data_state])


def verify(path: pathlib.Path, name: str, tree: Any, meta: Mapping[str, Any]) -> None:
    """Raises CheckpointError unless the arrays of an item have the checksums in `meta`."""
    saved = meta["checksums"].get(name, {})
    missing = [leaf for leaf in checksums.paths(tree) if leaf not in saved]
    if missing:
        raise CheckpointError(f"the checkpoint {path} has no {missing[0]} in its item {name}")
    bad = checksums.differing(checksums.of_tree(tree), saved)
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise CheckpointError(
            f"the checkpoint {path} is damaged: in its item {name}, {', '.join(bad[:3])}{more} "
            "are not what was saved"
        )
