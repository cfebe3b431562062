"""What training reports: running averages on the device, and the files they go to.

Axis letters: B batch, T diffusion steps.
"""

import json
import os
import pathlib
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from clu.metrics import Average
from jax.typing import ArrayLike

from iddpm_jax.errors import UsageError
from iddpm_jax.files.atomic import write_atomically
from iddpm_jax.files.untrusted import open_regular
from iddpm_jax.training.objective import Objective

Metrics = dict[str, Average]

_QUARTILES = 4
_LONGEST_ROW = 2**20  # Bytes.


def loss_metrics(
    losses: Mapping[str, jax.Array],
    t: jax.Array,
    weights: jax.Array,
    num_timesteps: int,
    keep: jax.Array,
) -> Metrics:
    """Averages of each loss, and of each quartile of the timesteps, `loss_q0` … `loss_q3`.

    Args:
      losses: per example, `[B]` each.
      t: int32 `[B]`.
      weights: importance weights `[B]`. The plain names are of weighted losses, as in the
        reference, those that begin with `unweighted/` of the losses themselves.
      keep: scalar bool; False leaves the averages as they are.
    """
    quartile = _QUARTILES * t // num_timesteps
    metrics: Metrics = {}
    for name, loss in losses.items():
        for key, value in ((name, loss * weights), (f"unweighted/{name}", loss)):
            mask = jnp.broadcast_to(keep, value.shape)
            metrics[key] = Average.from_model_output(value, mask=mask)
            for q in range(_QUARTILES):
                in_quartile = mask & (quartile == q)
                metrics[f"{key}_q{q}"] = Average.from_model_output(value, mask=in_quartile)
    return metrics


def scalar_metric(value: ArrayLike, keep: jax.Array) -> Average:
    """The average over steps of one number a step."""
    return Average.from_model_output(jnp.reshape(value, 1), mask=keep.reshape(1))


def initial_metrics(objective: Objective, loss_scaling: bool = False) -> Metrics:
    """All of a step's metrics, before they have seen anything."""
    empty, nothing = jnp.zeros(1), jnp.zeros((), bool)
    losses = dict.fromkeys(objective.loss_names(), empty)
    t = jnp.zeros(1, jnp.int32)
    metrics = loss_metrics(losses, t, empty, objective.num_timesteps, keep=nothing)
    for name in ("grad_norm", "lr", *["log2_loss_scale"] * loss_scaling):
        metrics[name] = scalar_metric(jnp.zeros(()), keep=nothing)
    return metrics


def merge(a: Metrics, b: Metrics) -> Metrics:
    return {name: a[name].merge(b[name]) for name in a}


def compute(metrics: Metrics) -> dict[str, float]:
    """The averages as floats, without those that saw nothing."""
    host: Metrics = jax.device_get(metrics)
    return {name: float(m.compute()) for name, m in sorted(host.items()) if m.count > 0}


class MetricWriter:
    """Writes `metrics.jsonl` and TensorBoard events into a work directory.

    Opening it for a run that continues at `start_step` drops what an interrupted run had
    written about later steps, so that no step is ever there twice.
    """

    def __init__(self, workdir: pathlib.Path, start_step: int):
        from tensorboardX import SummaryWriter

        path = workdir / "metrics.jsonl"
        _drop_rows_after(path, start_step)
        try:
            descriptor = open_regular(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        except OSError as error:
            reason = error.strerror or error
            raise UsageError(f"the log {path} cannot be written: {reason}") from error
        self._file = os.fdopen(descriptor, "a", encoding="utf-8")
        self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=start_step + 1)

    def scalars(self, step: int, values: Mapping[str, float], timing: Mapping[str, float]) -> None:
        """Writes `values` to both; `timing`, which no two runs share, to TensorBoard only."""
        row = json.dumps({"step": step, **values})
        self._file.write(row + "\n")
        self._file.flush()
        for name, value in {**values, **timing}.items():
            self._events.add_scalar(name, value, step)
        self._events.flush()

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Writes a picture, uint8 `[H, W, C]`, to TensorBoard."""
        self._events.add_image(name, image, step, dataformats="HWC")
        self._events.flush()

    def close(self) -> None:
        self._file.close()
        self._events.close()


class NoWriter:
    """Writes nothing: the first of several processes writes for all."""

    def scalars(self, step: int, values: Mapping[str, float], timing: Mapping[str, float]) -> None:
        pass

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        pass

    def close(self) -> None:
        pass


def _drop_rows_after(path: pathlib.Path, step: int) -> None:
    """Removes rows of later steps, and a last row that was cut off, in one atomic move."""
    rows = list(read_rows(path))
    kept = [row for row, of_step in rows if of_step is not None and of_step <= step]
    if len(kept) < len(rows) or not all(row.endswith(b"\n") for row in kept):
        write_atomically(path, b"".join(row.rstrip(b"\n") + b"\n" for row in kept))


def read_rows(path: pathlib.Path) -> Iterator[tuple[bytes, int | None]]:
    """Yields the lines of a log, and the step of each or None where it is no row of a log.

    Raises:
      UsageError: it is there and cannot be read.
    """
    if not os.path.lexists(path):
        return
    try:
        with os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file:
            while line := file.readline(_LONGEST_ROW):
                yield line, _step_of_row(line)
    except OSError as error:
        raise UsageError(f"the log {path} cannot be read: {error.strerror or error}") from error


def _step_of_row(line: bytes) -> int | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = row.get("step") if isinstance(row, dict) else None
    return step if type(step) is int else None
