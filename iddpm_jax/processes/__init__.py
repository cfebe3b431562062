"""Several processes as one run: what they agree on, and how one ends when another is gone."""

from iddpm_jax.processes.agreement import SharedFlag, any_process, check_same, on_first
from iddpm_jax.processes.comparison import check_same_directory, check_same_everywhere
from iddpm_jax.processes.ending import fail, tell
from iddpm_jax.processes.joining import finish, join_run
from iddpm_jax.processes.placement import everywhere, place
from iddpm_jax.processes.roll_call import PeerError
from iddpm_jax.processes.watch import Watch, silence

__all__ = [
    "PeerError",
    "SharedFlag",
    "Watch",
    "any_process",
    "check_same",
    "check_same_directory",
    "check_same_everywhere",
    "everywhere",
    "fail",
    "finish",
    "join_run",
    "on_first",
    "place",
    "silence",
    "tell",
]
