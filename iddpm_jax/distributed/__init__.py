"""Several programs as one run: what they agree on, and how one ends when another is gone.

In this package a process is such a program, as in `jax.process_index` and --process_id.
"""

from iddpm_jax.distributed.agreement import SharedFlag, any_process, check_same, on_first
from iddpm_jax.distributed.comparison import check_same_directory, check_same_everywhere
from iddpm_jax.distributed.ending import PeerError, fail, print_once
from iddpm_jax.distributed.launch import finish, join_run
from iddpm_jax.distributed.placement import replicate, to_devices
from iddpm_jax.distributed.watchdog import Watch

__all__ = [
    "PeerError",
    "SharedFlag",
    "Watch",
    "any_process",
    "check_same",
    "check_same_directory",
    "check_same_everywhere",
    "fail",
    "finish",
    "join_run",
    "on_first",
    "print_once",
    "replicate",
    "to_devices",
]
