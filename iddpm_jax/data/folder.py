"""Images in a folder or archive as a source.

Axis letters: N images, B batch, H W C image.
"""

import pathlib
from collections.abc import Sequence

import numpy as np
from absl import logging

from iddpm_jax.data.decoding import decode_all
from iddpm_jax.data.image_files import Listing
from iddpm_jax.data.images import BadImageError, decode_image
from iddpm_jax.data.listing import list_images
from iddpm_jax.data.options import DataOptions
from iddpm_jax.data.reading import read_with_retries
from iddpm_jax.data.sources import InMemorySource, Item, fingerprint_of
from iddpm_jax.data.splits import is_held_out, parse_split, slice_of
from iddpm_jax.errors import UsageError


def folder_source(options: DataOptions) -> "FolderSource":
    """Opens a folder or archive.

    Raises:
      UsageError: the folder or a label is not usable.
    """
    listing = list_images(pathlib.Path(options.dir))
    names = _in_split(listing.names, options)
    labels, class_names = _labels(listing.names, names, options)
    return FolderSource(listing, names, labels, class_names, options)


def _in_split(names: Sequence[str], options: DataOptions) -> tuple[str, ...]:
    base, start, stop = parse_split(options.split)
    if base == "all":
        chosen = list(names)
    elif base in ("train", "test"):
        if base == "test" and not options.test_percent:
            raise UsageError(
                f"data.split={options.split!r}: a folder has no test split unless "
                "data.test_percent says how much of it is held out from training"
            )
        test = base == "test"
        chosen = [name for name in names if is_held_out(name, options.test_percent) == test]
    else:
        raise UsageError(f"data.split={options.split!r}: a folder has train, test and all")
    chosen = chosen[slice_of(len(chosen), start, stop)]
    if not chosen:
        raise UsageError(
            f"data.split={options.split!r} has none of the {len(names)} images of {options.dir!r}"
        )
    return tuple(chosen)


def class_of(name: str, rule: str) -> str:
    """The class of a file: the prefix of its name, or the folder that it is in."""
    folder, _, file = name.rpartition("/")
    return folder.rpartition("/")[2] if rule == "directory" else file.split("_")[0]


def class_names_of(names: Sequence[str], rule: str) -> tuple[str, ...]:
    """The classes of all files, sorted: their order is that of the labels."""
    return tuple(sorted({class_of(name, rule) for name in names}))


_BY_FOLDER = "; data.labels=directory takes the folder that it is in"


def check_labelled(names: Sequence[str], rule: str, where: str) -> None:
    """Raises UsageError for a file without a class by the rule."""
    for name in names:
        if rule == "prefix" and "_" not in name.rpartition("/")[2]:
            raise UsageError(
                f"{name!r} in {where!r} has no class: with labels by prefix it is what comes "
                f"before the first underscore of the file's name{_BY_FOLDER * ('/' in name)}"
            )
        if rule == "directory" and "/" not in name:
            raise UsageError(
                f"{name!r} in {where!r} has no class: with labels by directory it is the folder "
                "that a file is in"
            )


def _labels(all_names, names, options: DataOptions) -> tuple[np.ndarray, tuple[str, ...]]:
    if options.labels == "none":
        return np.zeros(len(names), np.int32), ()
    check_labelled(all_names, options.labels, options.dir)
    known = class_names_of(all_names, options.labels)
    if options.labels == "prefix" and _look_sorted_into_folders(all_names, known):
        logging.warning(
            "the classes of %s, by prefix of the files' names, are %d of %d images, but all are in "
            "folders; data.labels=directory makes those the classes",
            options.dir,
            len(known),
            len(all_names),
        )
    ids = {name: i for i, name in enumerate(known)}
    return np.array([ids[class_of(n, options.labels)] for n in names], np.int32), known


def _look_sorted_into_folders(names: Sequence[str], by_prefix: Sequence[str]) -> bool:
    """Whether folders are likelier classes, as prefixes are all the same, or mostly different."""
    folders = class_names_of(names, "directory")
    alike = len(by_prefix) == 1 < len(folders)
    return "" not in folders and (alike or len(by_prefix) > max(len(names) / 2, len(folders)))


class FolderSource:
    """Image files, decoded when they are asked for.

    If one cannot be decoded, a warning names it and the next image that can be decoded replaces
    it; with on_bad_image="error" it is an error. Batches also have `sound` bool `[B]`: False for
    images that replace another.
    """

    def __init__(
        self,
        listing: Listing,
        names: tuple[str, ...],
        labels: np.ndarray,
        class_names: tuple[str, ...],
        options: DataOptions,
    ):
        self._listing, self._names, self._labels = listing, names, labels
        self._options = options
        self.class_names = class_names
        self.image_shape = (options.image_size, options.image_size, options.channels)
        self.fingerprint = fingerprint_of(names)
        self._bad: set[int] = set()
        self._why_bad = ""

    @property
    def labels(self) -> np.ndarray:
        """Labels by name, int32 `[N]`, without reading an image."""
        return self._labels

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Item:
        for i in range(index, index + len(self)):
            number = i % len(self)
            image = self._decode(number) if number not in self._bad else None
            if image is not None:
                label = self._labels[number]
                return {"image": image, "label": label, "sound": np.bool_(number == index)}
        raise self._none_usable()

    def batch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        items = [self[int(index)] for index in indices]
        return {key: np.stack([item[key] for item in items]) for key in items[0]}

    def decoded(self) -> InMemorySource:
        """All images in memory, without those that cannot be decoded."""
        images = np.empty((len(self), *self.image_shape), np.uint8)
        good = np.zeros(len(self), bool)

        def fill(number: int) -> None:
            image = self._decode(number)
            if image is not None:
                images[number], good[number] = image, True

        decode_all(fill, len(self))
        if not good.any():
            raise self._none_usable()
        if not good.all():
            logging.warning(
                "%d of %d images of %s are left out", (~good).sum(), len(self), self._options.dir
            )
            images = images[good]
        names = [name for name, is_good in zip(self._names, good, strict=True) if is_good]
        return InMemorySource(images, self._labels[good], self.class_names, fingerprint_of(names))

    def _none_usable(self) -> UsageError:
        where = self._options.dir
        return UsageError(
            f"none of the {len(self)} images of {where!r} can be decoded; {self._why_bad}"
        )

    def _decode(self, number: int) -> np.ndarray | None:
        """The image, or None for a bad one, of which there is a warning."""
        name, options = self._names[number], self._options

        def read() -> np.ndarray:
            data = self._listing.read(name)
            return decode_image(data, options.image_size, options.channels, exif=options.exif)

        try:
            return read_with_retries(read, f"{options.dir}: {name!r}")
        except BadImageError as error:
            if options.on_bad_image == "error":
                raise UsageError(f"{options.dir}: {name!r} cannot be used: {error}") from error
            self._bad.add(number)
            self._why_bad = f"{name!r}: {error}"
            logging.warning("%s: %r is left out: %s", options.dir, name, error)
            return None
