"""What the package raises of its own accord."""


class UsageError(ValueError):
    """Something was asked for that cannot be done: a wrong value, a damaged file, a full disk.

    The message is for the person who asked. It names the value, the limit and what to do, and
    commands print it in one line. Every other exception is a bug, and keeps its traceback.
    """
