"""Parts of a data set: `train`, `test`, `train[:90%]`, and the stable split of a folder."""

import hashlib
import re

from iddpm_jax.errors import UsageError

_SPEC = re.compile(r"(?P<base>\w+)(\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?")


def parse_split(spec: str) -> tuple[str, str, str]:
    """`train[10%:90%]` to (`train`, `10%`, `90%`); empty bounds where there are none.

    Raises:
      UsageError: the spec cannot be read.
    """
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise UsageError(f"data.split={spec!r} cannot be read: give it as in train or train[:90%]")
    return match["base"], match["start"] or "", match["stop"] or ""


def slice_of(count: int, start: str, stop: str) -> slice:
    """The part of `count` images between two bounds, in numbers or percent.

    Percentages are rounded, so that `[:90%]` and `[90%:]` have every image exactly once.
    """

    def bound(text: str) -> int | None:
        if not text:
            return None
        if not text.endswith("%"):
            return int(text)
        percent = int(text[:-1])
        if abs(percent) > 100:
            raise UsageError(f"data.split: {text} is more than 100%")
        return round(count * percent / 100)

    return slice(bound(start), bound(stop))


def is_held_out(name: str, percent: float) -> bool:
    """Whether a file belongs to the test split, of which `percent` of all files are.

    It depends on the file's name alone: other files may come and go.
    """
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") < percent / 100 * 2**64
