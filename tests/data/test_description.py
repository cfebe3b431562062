import re

import numpy as np
import pytest

from iddpm_jax.data import InMemorySource, describe, hints


def _source(channels=1, gray=True, class_names=()):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (5000, 4, 6, 1 if gray else channels), dtype=np.uint8)
    images = np.broadcast_to(images, (5000, 4, 6, channels))
    return InMemorySource(images, np.zeros(5000, np.int32), tuple(class_names))


@pytest.mark.parametrize(
    ("source", "line"),
    [
        (
            _source(class_names=("cat", "dog")),
            "5,000 images, 2 classes (cat, dog), 4 × 6, gray",
        ),
        (_source(3), "5,000 images, no classes, 4 × 6, RGB"),
        (
            _source(4, class_names=("a\nb\x1b[2J", "x" * 50, *map(str, range(10)))),
            f"5,000 images, 12 classes (a?b?[2J, {'x' * 19}…, 0, 1, 2, 3, 4, 5, 6, 7, …), 4 × 6, "
            "RGB and alpha",
        ),
    ],
)
def test_describe_is_one_line(source, line):
    assert describe(source) == line


@pytest.mark.parametrize(
    ("source", "name", "num_classes", "random_flip", "words"),
    [
        (_source(class_names=("a", "b")), "folder", 3, False, "num_classes=3.* have 2 classes"),
        (_source(), "tfds:mnist", 0, True, "random_flip=True mirrors half of tfds:mnist"),
        (_source(), "digits", 0, True, "random_flip=True mirrors"),
        (_source(3), "folder", 0, True, "look gray .all of 16.*in_channels=3; .*in_channels=1"),
    ],
)
def test_hints_name_what_looks_like_a_mistake(source, name, num_classes, random_flip, words):
    [line] = hints(source, name, num_classes, random_flip)
    assert re.search(words, line)
    assert "\n" not in line


def test_hints_are_silent_where_nothing_is_odd():
    source = _source(3, gray=False, class_names=("a", "b"))
    assert list(hints(source, "folder", 2, True)) == []
    assert list(hints(_source(), "digits", 0, False)) == []
