"""Flags whose value is a path on a local disk."""

from typing import cast

from absl import flags


class PathParser(flags.ArgumentParser):
    """A path on a local disk; see `files.paths.local_path`."""

    syntactic_help = "a path"

    def __init__(self, name: str):
        self._name = name

    def parse(self, argument: str) -> str:
        # Imported late: absl asks this module for its flags.
        from iddpm_jax.files.paths import local_path

        return str(local_path(argument, f"--{self._name}"))


def define_path(name: str, help_line: str) -> flags.FlagHolder[str | None]:
    """Defines a flag whose value is a path; None unless it is given."""
    # Several commands have a --workdir, and a program may import more than one of them.
    return flags.DEFINE(PathParser(name), name, None, help_line, allow_override=True)


def define_required_path(name: str, help_line: str) -> flags.FlagHolder[str]:
    """`define_path` for a flag that its command has among its `required`, so never None."""
    return cast(flags.FlagHolder[str], define_path(name, help_line))


flags.disclaim_key_flags()  # `--help` shows a flag as that of the module which calls this one.
