"""Describes a source of images in one line, and finds what looks like a mistake in it."""

from collections.abc import Iterator

import numpy as np

from iddpm_jax.data.sources import Source

_COLOURS = {1: "gray", 2: "gray and alpha", 3: "RGB", 4: "RGB and alpha"}
_NAMES_SHOWN = 10
_LONGEST_NAME = 20  # Letters.
_LOOKED_AT = 16  # Images, spread over the data.
_DIGITS = ("digits", "mnist", "svhn")


def describe(source: Source) -> str:
    """One line, such as `5,000 images, 2 classes (cat, dog), 28 × 28, gray`."""
    height, width, channels = source.image_shape
    names = source.class_names
    shown = [_in_one_line(name) for name in names[:_NAMES_SHOWN]]
    more = ["…"] if len(names) > len(shown) else []
    parts = [
        f"{len(source):,} images",
        f"{len(names):,} classes ({', '.join(shown + more)})" if names else "no classes",
        f"{height} × {width}",
        _COLOURS[channels],
    ]
    return ", ".join(parts)


def hints(source: Source, name: str, num_classes: int, random_flip: bool) -> Iterator[str]:
    """Yields a line for each thing that is probably a mistake.

    Args:
      name: data.name.
      num_classes: model.num_classes.
      random_flip: data.random_flip.
    """
    classes = len(source.class_names)
    if classes and num_classes > classes:
        yield (
            f"model.num_classes={num_classes}, but the data have {classes} classes; the others "
            "are never trained"
        )
    if random_flip and any(digits in name.lower() for digits in _DIGITS):
        yield (
            f"data.random_flip=True mirrors half of {name}, and mirrored digits are none; "
            "data.random_flip=False leaves them"
        )
    if source.image_shape[-1] >= 3 and _all_gray(source):
        yield (
            f"the images look gray (all of {min(_LOOKED_AT, len(source))} that were looked at), "
            f"but model.in_channels={source.image_shape[-1]}; model.in_channels=1 learns the same "
            "with less"
        )


def _all_gray(source: Source) -> bool:
    count = min(_LOOKED_AT, len(source))
    if not count:
        return False
    images = source.batch(np.arange(count) * len(source) // count)["image"]
    return bool(np.all(images[..., :3] == images[..., :1]))


def _in_one_line(name: str) -> str:
    """A class name, which may hold anything, as a few printable letters."""
    printable = "".join(letter if letter.isprintable() else "?" for letter in name)
    return printable if len(printable) <= _LONGEST_NAME else printable[: _LONGEST_NAME - 1] + "…"
