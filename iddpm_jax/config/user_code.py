"""Code of the user's that a configuration names, as `module:function`, and who may import it.

    diffusion.noise_schedule = "my_parts:betas"
    model.network = "my_parts:make_network"
    data.name = "my_parts:make_source"

The names are recorded in config.json, where `load` finds them again. Importing a module runs it,
and a config.json may come from anybody: nothing is imported unless the user has allowed that name,
which training does for a recipe and `load` where it is told to trust. docs/extending.md says what
the functions take and return.
"""

import importlib
import os
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

from iddpm_jax.errors import UsageError

KEYS = ("data.name", "diffusion.noise_schedule", "model.network")

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_allowed: set[str] = set()


def names_code(key: str, value: str) -> bool:
    """Whether the value of one of KEYS names code, and not something that the package has."""
    return ":" in value and not (key == "data.name" and value.startswith("tfds:"))


def named_code(values: Mapping[str, Any]) -> dict[str, str]:
    """What a configuration, with its values by dotted key, names: `module:function` by key."""
    return {key: values[key] for key in KEYS if names_code(key, values[key])}


def allow(values: Mapping[str, Any]) -> None:
    """Lets `find` import what a configuration names, as long as this program runs."""
    _allowed.update(named_code(values).values())


def refuse_untrusted(values: Mapping[str, Any], where: str) -> None:
    """UsageError if a configuration, read from the file `where`, names code at all."""
    names = named_code(values)
    if names:
        listed = ", ".join(f"{key}={name!r}" for key, name in names.items())
        raise _untrusted(where, listed)


def _untrusted(where: str, names: str) -> UsageError:
    return UsageError(
        f"{where} names code to import and run: {names}; if you trust it, say so: "
        "load(…, trust_code=True), or --trust_code of commands"
    )


def find(key: str, name: str) -> Callable[..., Any]:
    """The function that `key` names; its module is imported from PYTHONPATH or this directory.

    Raises:
      UsageError: it is no name of that form, was not allowed, or is not there. What the module
        itself raises keeps its traceback.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"{key}={name!r}: name your own code as module:function")
    if name not in _allowed:
        raise _untrusted("the configuration", f"{key}={name!r}")
    module_name, _, function = name.partition(":")
    # A console script has its own directory on the path, and not the one that it is run in.
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if module_name != missing and not module_name.startswith(f"{missing}."):
            raise  # A module that theirs imports.
        raise UsageError(
            f"{key}={name!r}: there is no module {missing!r} in {os.getcwd()} or on PYTHONPATH"
        ) from None
    found = getattr(module, function, None)
    if not callable(found):
        raise UsageError(f"{key}={name!r}: {module_name} has no function {function!r}")
    return found
