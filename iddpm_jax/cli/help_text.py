"""What `--help` prints: what the command is for, then its flags, the most particular first."""

import inspect
import itertools
import re
import sys
import textwrap

from absl import flags

from iddpm_jax.cli.path_flag import PathParser
from iddpm_jax.config import defaults

_WIDTH = 100
# Modules whose flags come after the command's own, in this order.
_COMMON = (
    "iddpm_jax.cli.picture_flags",
    "iddpm_jax.cli.enlarging_flags",
    "iddpm_jax.cli.packing_flags",
    "iddpm_jax.cli.sampling_flags",
    "iddpm_jax.cli.run",
    "iddpm_jax.cli.launch",
)
_KEY = re.compile(r"    (\w+\.\w+) = (.+?)(?:  # (.*))?")


def of(module: str, config: bool, argument: str = "") -> str:
    """The help of the command whose `main` is in the module of that name.

    Args:
      config: whether it takes a `--config`, whose recipes and keys are then listed.
      argument: the name of its one argument that is no flag, if it has one.
    """
    of_command: list[flags.Flag] = []
    common: dict[str, list[flags.Flag]] = {name: [] for name in _COMMON}
    for defined_in, found in flags.FLAGS.flags_by_module_dict().items():
        if defined_in in common:
            common[defined_in] += found
        elif defined_in in (module, sys.argv[0]):
            of_command += found
    entries = [_entry(flag) for flag in (*of_command, *itertools.chain(*common.values()))]
    about = inspect.cleandoc(sys.modules[module].__doc__ or "")
    if argument:
        about += f"\n\n{argument} comes first; all else is flags."
    if not config:
        return "\n".join([about, "", "Flags:", *entries])
    from iddpm_jax.config.recipes import recipe_names

    names = textwrap.fill(", ".join(recipe_names()), _WIDTH, **_INDENT)
    recipes = ["", "Recipes:", names, "", "Keys of the configuration, with their defaults:"]
    return "\n".join([about, "", "Flags:", _CONFIG_HELP, *entries, *recipes, *_keys()])


_INDENT = {"initial_indent": "      ", "subsequent_indent": "      "}
_CONFIG_HELP = """\
  --config=RECIPE
      A recipe by its name (below), a Python file with get_config(), or the config.json of a run.
      Training in a --workdir that holds a run needs none.
  --config.KEY=VALUE
      Overrides a key (below), as in --config.train.num_steps=5000."""


def _entry(flag: flags.Flag) -> str:
    choices = getattr(flag.parser, "enum_values", None) or ()
    text = flag.help.removeprefix(f"<{'|'.join(choices)}>: ").removesuffix(_REPEAT)
    if choices:
        text += f" One of {', '.join(choices)}."
    if flag.default not in (None, "", [], False):
        text += f" Default: {str(flag.default_as_str).strip(chr(39))}."
    value = "" if flag.boolean else f"={_kind(flag.parser)}"
    return f"  --{flag.name}{value}\n" + textwrap.fill(" ".join(text.split()), _WIDTH, **_INDENT)


_REPEAT = ";\n  repeat this option to specify a list of values"


def _kind(parser: flags.ArgumentParser) -> str:
    if isinstance(parser, PathParser):
        return "PATH"
    return "NUMBER" if isinstance(parser, flags.IntegerParser | flags.FloatParser) else "NAME"


def _keys() -> list[str]:
    """Each key with its default and its comment, as `config/defaults.py` has them."""
    lines: list[str] = []
    for line in inspect.getsource(defaults).splitlines():
        if match := _KEY.fullmatch(line):
            key, value, comment = match.groups()
            if not key.startswith("config."):
                value = "" if "placeholder" in value else value.strip('"')
                lines.append(f"  {key}={value}" + (f"  # {comment}" if comment else ""))
        elif lines and (more := re.fullmatch(r"    # (.*)", line)):
            lines.append(f"      {more[1]}")
    return lines
