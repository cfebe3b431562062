"""Classes as people give them: by number or by name."""

import re
from collections.abc import Sequence

from iddpm_jax.errors import UsageError

_SHOWN = 10  # Names in a message, at most.


def label_numbers(given: Sequence[str] | None, class_names: Sequence[str]) -> list[int] | None:
    """The numbers of classes that are given by number or by name; None where none are given.

    What can be a number of a class is one, although a class may have that name. Anything else is
    a name.

    Args:
      class_names: names of all classes of the model, in the order of their numbers; none for an
        unconditional one.

    Raises:
      UsageError: there is no class of that name.
    """
    if given is None:
        return None
    if not given:
        raise UsageError("--labels is empty: give classes, as in 0,1,2")
    return [_label_number(label.strip(), class_names) for label in given]


def _label_number(label: str, names: Sequence[str]) -> int:
    whole = re.fullmatch("-?[0-9]{1,9}", label)
    # Classes may be called "10" and "20", which are no numbers of two classes.
    if whole and (label not in names or 0 <= int(label) < len(names)):
        return int(label)
    if label in names:
        return names.index(label)
    if not names:
        raise UsageError(f"--labels={label}, but the model is unconditional")
    shown = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
    raise UsageError(
        f"--labels={label}: the model has no class of that name; it has {shown}, or by number 0 to "
        f"{len(names) - 1}"
    )
