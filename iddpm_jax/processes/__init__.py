"""Several processes as one run: what they agree on, and how one ends when another is gone."""

from iddpm_jax.processes.agreement import PeerError, SharedFlag, any_process, check_same, on_first
from iddpm_jax.processes.ending import fail, finish, tell
from iddpm_jax.processes.placement import everywhere, place
from iddpm_jax.processes.watch import Watch

__all__ = [
    "PeerError",
    "SharedFlag",
    "Watch",
    "any_process",
    "check_same",
    "everywhere",
    "fail",
    "finish",
    "on_first",
    "place",
    "tell",
]
