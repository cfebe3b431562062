"""What commands that take a --config share: flags that are wrong are one line, not a trace."""

import logging as python_logging
import sys

from absl import flags, logging

from iddpm_jax import configuration
from iddpm_jax.config import defaults
from iddpm_jax.errors import UsageError


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line; what is wrong with it or the recipe is said in one line."""
    known = configuration.flat_config(defaults.get_config())
    given = [a.lstrip("-").split("=")[0] for a in argv if a.lstrip("-").startswith("config.")]
    unknown = [key for key in (k.removeprefix("config.") for k in given) if key not in known]
    try:
        if unknown:
            raise UsageError(configuration.unknown_key_message(unknown[0], known))
        return flags.FLAGS(argv)
    # A recipe is a program and may fail in any way.
    except Exception as error:
        sys.exit(f"error: {reason(error)}\nSee --help")


def configure_logging() -> None:
    """Warnings, without those of Orbax: what it raises is reported in a line of ours."""
    logging.set_verbosity(logging.WARNING)
    logging.get_absl_logger().addFilter(lambda record: "orbax" not in record.pathname)
    # Where one write fails, hundreds of others say so too.
    python_logging.getLogger("asyncio").setLevel(python_logging.CRITICAL + 1)


def reason(error: BaseException) -> str:
    """What an error says, in one line, without the configurations that some print."""
    while error.__cause__ is not None:
        error = error.__cause__
    name = "" if type(error) in (ValueError, flags.Error) else f"{type(error).__name__}: "
    return name + " ".join(str(error).split())[:500]
