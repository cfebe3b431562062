"""Sources of images: random access to uint8 images and their labels.

Axis letters: N images of the source, B of a batch, H W C image.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from iddpm_jax.data.splits import parse_split, slice_of
from iddpm_jax.errors import UsageError

Item = Mapping[str, np.ndarray | np.generic]


class Source(Protocol):
    """Random access to labelled images.

    Attributes:
      image_shape: (H, W, C).
      class_names: names of the classes, in the order of their labels; empty if unlabelled.
      fingerprint: differs between two versions of the data, such as a digest of the names of all
        files; empty where the data cannot change.
    """

    @property
    def image_shape(self) -> tuple[int, int, int]: ...

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def fingerprint(self) -> str: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Item:
        """`image` uint8 `[H, W, C]` and `label` int32 scalar."""
        ...

    def batch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """`image` uint8 `[B, H, W, C]` and `label` int32 `[B]` of the given images."""
        ...


def facts_of(source: "Source") -> dict[str, str | int | list[str]]:
    """Facts that must be equal on all hosts of a run, wherever each has the data."""
    return {
        "fingerprint": source.fingerprint,
        "number of images": len(source),
        "classes": list(source.class_names),
    }


def fingerprint_of(parts: Iterable[str]) -> str:
    """A digest of some texts, in their order; 32 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogateescape")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:32]


def check_labels(labels: np.ndarray, class_names: Sequence[str]) -> None:
    """Raises UsageError for labels `int32 [N]` that are not those of named classes."""
    classes = len(class_names)
    if classes and len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise UsageError(
            f"labels from {labels.min()} to {labels.max()} do not fit the {classes} classes"
        )


@dataclasses.dataclass(frozen=True)
class InMemorySource:
    """Images `uint8 [N, H, W, C]` and labels `int32 [N]` held in memory."""

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...] = ()
    fingerprint: str = ""

    def __post_init__(self):
        if self.images.ndim != 4 or self.images.dtype != np.uint8:
            raise UsageError(
                f"images must be uint8 [N, H, W, C], got {self.images.dtype} {self.images.shape}"
            )
        if self.labels.shape != self.images.shape[:1]:
            raise UsageError(f"{len(self.images)} images, but labels of {self.labels.shape}")

        check_labels(self.labels, self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.images.shape[1:]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {"image": self.images[index], "label": self.labels[index]}

    def batch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        return {"image": self.images[indices], "label": self.labels[indices]}


# Scans come in the order in which people wrote them: training does not see the writers of the test
# split.
_DIGITS_TRAIN = 1500
_DIGITS_SPLITS = {
    "train": slice(None, _DIGITS_TRAIN),
    "test": slice(_DIGITS_TRAIN, None),
    "all": slice(None),
}


def digits_source(split: str, size: int = 8) -> InMemorySource:
    """scikit-learn's 1,797 scans of handwritten digits, 8 × 8 × 1, 17 grey levels.

    With `size` 4 each is made smaller by means of 2 × 2 pixels, with 2 of 4 × 4.
    """
    try:
        import sklearn.datasets
    except ImportError as error:
        raise UsageError(
            "data.name='digits' needs scikit-learn, which holds them: pip install scikit-learn"
        ) from error

    base, start, stop = parse_split(split)
    if base not in _DIGITS_SPLITS:
        raise UsageError(f"data.split={split!r}: digits have {', '.join(_DIGITS_SPLITS)}")
    if size not in (2, 4, 8):
        raise UsageError(f"model.image_size={size}: digits are 8 x 8, and come in 4 and 2 too")
    digits: Any = sklearn.datasets.load_digits()  # A tuple only where one is asked for.
    images = digits.images[_DIGITS_SPLITS[base]]
    images = images.reshape(-1, size, 8 // size, size, 8 // size).mean(axis=(2, 4))
    images = np.round(images * (255 / 16)).astype(np.uint8)
    labels = digits.target[_DIGITS_SPLITS[base]].astype(np.int32)
    part = slice_of(len(images), start, stop)
    return InMemorySource(
        images=images[part, ..., None],
        labels=labels[part],
        class_names=tuple(str(name) for name in digits.target_names),
    )
