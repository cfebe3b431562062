"""What all commands share: flags, messages, and how a command begins and ends."""

from iddpm_jax.cli.run import command

__all__ = ["command"]
