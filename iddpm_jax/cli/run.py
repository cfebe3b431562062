"""From the command line to a command's `main`, and what is said when either goes wrong.

    $ python -m iddpm_jax.sample --workdir=nowhere
    error: nowhere is not a work directory: it has no config.json

Exit status 0: done, or --help. 1: refused, in one line that begins with `error:`. 2: the flags are
wrong, likewise. 130: Ctrl-C. Anything else is a bug, and keeps its traceback.
"""

import contextlib
import logging as python_logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import app, flags, logging

from iddpm_jax.cli import config_flag, flag_errors, help_text
from iddpm_jax.errors import UsageError

_TRACEBACK = flags.DEFINE_bool(
    "traceback", False, "Show where in the program an error arose, before its line."
)
_INTERRUPTED = 128 + 2  # As shells report a program that SIGINT ended.


def command(
    main: Callable[[], None],
    *,
    required: Sequence[str] = (),
    config: bool = False,
    argument: str = "",
    continues: bool = False,
    quiet: bool = False,
) -> Callable[[], None]:
    """Makes a module's `main` a command.

    Args:
      main: does the work, after the flags have been parsed. It imports what it needs, so that
        `--help` and refusals do not wait for JAX.
      required: names of flags that have to be given.
      config: whether there is a `--config`, which `config_flag.value()` returns.
      argument: name of the one argument that is no flag, such as `DATASET`; `command_argument`
        returns it.
      continues: whether the same command goes on where it was interrupted.
      quiet: hide warnings.

    Returns:
      The function that runs it, `run()`.
    """

    def parse(argv: list[str]) -> list[str]:
        if any(word in ("-h", "-help", "--help") for word in argv):
            _print_help(help_text.of(main.__module__, config, argument))
        try:
            argv = config_flag.take(argv, continues) if config else argv
            rest = flags.FLAGS(argv)
            flag_errors.check_required(required)
            flag_errors.check_arguments(rest[1:], argument)
        except (flags.Error, UsageError) as error:
            _say(f"{flag_errors.plain(error)}\nSee --help")
            sys.exit(2)
        return rest

    def guarded(argv: list[str]) -> None:
        del argv
        _configure_logging(quiet)
        if sys.stderr.isatty():
            print("loading JAX …", end="\r", file=sys.stderr, flush=True)
        try:
            main()
        except UsageError as error:
            _refuse(error)
        except KeyboardInterrupt:
            hint = "; the same command continues" if continues else ""
            _end(f"interrupted{hint}", _INTERRUPTED)

    return lambda: app.run(guarded, flags_parser=parse)


def _print_help(text: str) -> NoReturn:
    """Prints a text that may be long; whoever reads it may stop before its end."""
    with contextlib.suppress(BrokenPipeError):
        print(text, flush=True)
        sys.exit(0)
    os._exit(0)


def _configure_logging(quiet: bool) -> None:
    """Warnings, without those of Orbax: what it raises is reported in a line of ours."""
    logging.set_verbosity(logging.ERROR if quiet else logging.WARNING)
    logging.get_absl_logger().addFilter(lambda record: "orbax" not in record.pathname)
    # Where one write fails, hundreds of others say so too.
    python_logging.getLogger("asyncio").setLevel(python_logging.CRITICAL + 1)


def _refuse(error: UsageError) -> NoReturn:
    if _TRACEBACK.value:
        traceback.print_exception(error)
    if sys.modules.get("jax") is None:  # Then there are no other hosts either.
        _end(f"error: {error}", 1)
    from iddpm_jax import distributed

    distributed.fail(error)


def _end(line: str, status: int) -> NoReturn:
    """Ends the program at once, whatever threads libraries keep."""
    print(line, file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(status)


def _say(text: str) -> None:
    print(f"error: {text}", file=sys.stderr, flush=True)
