"""Batches on the devices, one ahead of when it is needed."""

from collections.abc import Callable, Mapping

import jax
import numpy as np

from iddpm_jax.data import BatchIterator
from iddpm_jax.errors import UsageError

Batch = dict[str, jax.Array]


class DataError(UsageError):
    """Images that training needs cannot be used."""


class DeviceBatches:
    """Takes batches from an iterator and puts them onto the devices.

    Where `fetch` is called as soon as a step has been dispatched, the next batch travels while
    the devices compute, and is there when the step ends.

    Args:
      put: puts what this process has of a batch onto its devices.
      names: entries of a batch that are needed there.
    """

    def __init__(
        self,
        batches: BatchIterator,
        put: Callable[[Mapping[str, np.ndarray]], Batch],
        names: tuple[str, ...],
    ):
        self._batches, self._put, self._names = batches, put, names
        self._position = batches.get_state()
        self._ahead: tuple[Batch, dict] | None = None

    def fetch(self) -> None:
        """Gets the next batch ready, unless it is; DataError if it cannot be."""
        if self._ahead is None:
            self._ahead = self._next()

    def take(self) -> Batch:
        """The next batch; DataError if it cannot be had."""
        batch, self._position = self._ahead or self._next()
        self._ahead = None
        return batch

    def _next(self) -> tuple[Batch, dict]:
        try:
            batch = next(self._batches)
        except UsageError as error:
            raise DataError(str(error)) from error
        except OSError as error:
            raise DataError(f"the data cannot be read any more: {error}") from error
        on_devices = self._put({name: batch[name] for name in self._names})
        return on_devices, self._batches.get_state()

    @property
    def position(self) -> dict:
        """The iterator's state after the batches that were taken; one fetched ahead is not."""
        return self._position
