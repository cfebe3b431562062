"""Reading images from disks that may fail for a moment."""

import time
from collections.abc import Callable
from typing import TypeVar

from absl import logging

from iddpm_jax.data.images import BadImageError
from iddpm_jax.errors import UsageError

_PAUSES = (0.1, 0.5, 2.0)  # Seconds before each further attempt.

Result = TypeVar("Result")


class ReadError(UsageError):
    """The system could not read an image, though it was asked several times."""


def read_with_retries(
    read: Callable[[], Result], what: str, sleep: Callable[[float], None] = time.sleep
) -> Result:
    """Calls `read`, several times if the system fails.

    A damaged image stays damaged, and may be left out. A disk that fails will work again, and its
    images are still part of the data: nothing that is learned may depend on when it failed.

    Args:
      read: reads and decodes. An OSError with an errno comes from the system, and is tried again;
        one without comes from a decoder, and means a damaged image.
      what: the image, for the message.

    Raises:
      ReadError: the system failed at every attempt.
      BadImageError: the image is damaged.
    """
    for pause in (*_PAUSES, None):
        try:
            return read()
        except OSError as error:
            if error.errno is None:
                raise BadImageError(f"{type(error).__name__}: {error}") from error
            if pause is None:
                raise ReadError(
                    f"{what} cannot be read, after {len(_PAUSES) + 1} attempts: {error}. Images "
                    "are left out where they are damaged, not where the system fails"
                ) from error
            logging.warning("%s could not be read: %s; trying again", what, error)
            sleep(pause)
    raise AssertionError  # Not reached.
