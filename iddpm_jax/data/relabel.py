"""Renumbers the labels of a source in the order of a run's class names."""

from collections.abc import Sequence

import numpy as np

from iddpm_jax.data.sources import Item, Source
from iddpm_jax.errors import UsageError


class Relabelled:
    """A source with its labels renumbered: `ids[label]` instead of `label`."""

    def __init__(self, source: Source, class_names: tuple[str, ...], ids: np.ndarray):
        self.source, self._ids = source, ids
        self.class_names = class_names
        self.image_shape = source.image_shape
        self.fingerprint = source.fingerprint

    def over(self, source: Source) -> "Relabelled":
        """The same labels for another source of the same classes."""
        return Relabelled(source, self.class_names, self._ids)

    @property
    def labels(self) -> np.ndarray | None:
        """Labels, int32 `[N]`, if the source has them without reading images."""
        labels = getattr(self.source, "labels", None)
        return None if labels is None else self._ids[labels]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Item:
        item = self.source[index]
        return {**item, "label": self._ids[int(item["label"])]}

    def batch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        batch = self.source.batch(indices)
        return {**batch, "label": self._ids[batch["label"]]}


def relabelled(source: Source, class_names: Sequence[str], where: str) -> Source:
    """`source` with its labels numbered as in `class_names`.

    Raises:
      UsageError: it has a class that is not among them.
    """
    known = tuple(class_names)
    if source.class_names == known or not source.class_names or not known:
        return source
    unknown = [name for name in source.class_names if name not in known]
    if unknown:
        raise UsageError(
            f"{where} has the classes {', '.join(unknown[:5])}, which the run's labels.json does "
            f"not have; it has {len(known)}"
        )
    ids = np.array([known.index(name) for name in source.class_names], np.int32)
    return Relabelled(source, known, ids)
