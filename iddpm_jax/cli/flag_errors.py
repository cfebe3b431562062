"""What is wrong with flags, in plain words."""

import difflib
import re
from collections.abc import Sequence

from absl import flags

from iddpm_jax.cli.path_flag import PathParser
from iddpm_jax.errors import UsageError

_ILLEGAL = re.compile(r"flag --(?P<name>[^=]+)=(?P<value>.*?): (?P<reason>.*)", re.DOTALL)
_argument = ""


def plain(error: Exception) -> str:
    """One line that names the flag, the value that it was given, and what is allowed."""
    if isinstance(error, flags.UnrecognizedFlagError):
        close = difflib.get_close_matches(error.flagname, list(flags.FLAGS), n=2)
        hint = f"; is {' or '.join(f'--{name}' for name in close)} meant?" if close else ""
        return f"there is no flag --{error.flagname}{hint}"
    match = _ILLEGAL.fullmatch(str(error))
    if match is None or match["name"] not in flags.FLAGS:
        return " ".join(str(error).split())
    parser = flags.FLAGS[match["name"]].parser
    if isinstance(parser, PathParser):
        return " ".join(match["reason"].split())
    return f"--{match['name']}={match['value']}: give {_allowed(parser, match['reason'])}"


def _allowed(parser: flags.ArgumentParser, reason: str) -> str:
    if isinstance(parser, flags.EnumParser):
        return f"one of {', '.join(parser.enum_values)}"
    if isinstance(parser, flags.BooleanParser):
        return "true or false"
    if isinstance(parser, flags.IntegerParser | flags.FloatParser):
        kind = "a whole number" if isinstance(parser, flags.IntegerParser) else "a number"
        low, high = parser.lower_bound, parser.upper_bound
        if low is not None and high is not None:
            return f"{kind} from {low} to {high}"
        return kind + (f" of at least {low}" if low is not None else "")
    return f"another value ({' '.join(reason.split())[:200]})"


def check_required(names: Sequence[str]) -> None:
    """UsageError for a flag that has to be given and is not."""
    for name in names:
        if flags.FLAGS[name].value is None:
            text = " ".join(flags.FLAGS[name].help.split())
            raise UsageError(f"--{name} is missing: {text[0].lower()}{text[1:]}")


def check_arguments(words: Sequence[str], argument: str) -> None:
    """UsageError unless there are as many words besides the flags as the command takes."""
    global _argument
    if argument and not words:
        raise UsageError(f"{argument} is missing")
    extra = words[bool(argument) :]
    if extra:
        raise UsageError(f"{extra[0]!r} is not a flag")
    _argument = words[0] if argument else ""


def command_argument() -> str:
    """The one argument of a command that takes one."""
    return _argument
