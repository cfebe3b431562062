"""Flags by which processes find each other, and joining them."""

import hashlib
import math
import os
import pathlib
from typing import Any

from absl import flags

import iddpm_jax
from iddpm_jax.cli.path_flag import PathParser
from iddpm_jax.errors import UsageError
from iddpm_jax.files.workdir import flatten

_LONGEST = 10**6  # Seconds, eleven days.
_PACKAGE = pathlib.Path(iddpm_jax.__file__).resolve().parent

_COORDINATOR = flags.DEFINE_string(
    "coordinator_address",
    None,
    "Host and port of process 0, such as node0:1234, for a run of several processes. Not needed "
    "where they find each other: SLURM, Open MPI, Cloud TPU, Kubernetes. Whoever reaches the port "
    "can disturb the run: keep it in a private network.",
)
_COUNT = flags.DEFINE_integer(
    "num_processes", None, "Number of processes; 1: this one alone, whatever is around it."
)
_ID = flags.DEFINE_integer("process_id", None, "Number of this process, from 0.")
_START = flags.DEFINE_float(
    "start_timeout",
    300.0,
    "Seconds that a process waits for process 0 to be there, and process 0 for all others.",
    lower_bound=0,
    upper_bound=_LONGEST,
)
_TIMEOUT = flags.DEFINE_float(
    "peer_timeout",
    600.0,
    "Seconds after which a process that makes no step ends all of them, as does one that is frozen "
    "after a tenth of that; 0: never. One that is gone ends them in a few seconds.",
    lower_bound=0,
    upper_bound=_LONGEST,
)

# What may differ between the hosts of a run: where a host has the data, and how it reads them.
HOST_LOCAL = frozenset({"data.dir", "data.num_workers", "data.cache_mb"})
_OWN = frozenset(
    {"coordinator_address", "num_processes", "process_id", "start_timeout", "traceback"}
)


def peer_timeout() -> float:
    """What --peer_timeout says."""
    return _TIMEOUT.value


def join() -> None:
    """Makes this process one of several, if it is, before JAX looks for its devices.

    Raises:
      UsageError: the flags are wrong, the others do not come, or were started with other flags,
        another configuration or other code.
    """
    for flag in (_START, _TIMEOUT):
        if math.isnan(flag.value):
            raise UsageError(f"--{flag.name}=nan: give a number of seconds")
    where = _from_flags() if _is_given() else _from_cluster()
    if where is None:
        return
    from iddpm_jax import distributed

    distributed.join_run(
        **where,
        start_timeout=_START.value,
        peer_timeout=_TIMEOUT.value,
        given=started_with(),
    )


def _is_given() -> bool:
    return any(flag.value is not None for flag in (_COORDINATOR, _COUNT, _ID))


def _from_flags() -> dict[str, Any] | None:
    """Address, number and count of processes, as the flags say; None: this one is alone."""
    address, count, number = _COORDINATOR.value, _COUNT.value, _ID.value
    if count == 1:
        return None
    if address is None or count is None or number is None:
        given = {"coordinator_address": address, "num_processes": count, "process_id": number}
        missing = [f"--{name}" for name, value in given.items() if value is None]
        raise UsageError(f"{' and '.join(missing)} missing: a process needs {', '.join(given)}")
    if count < 1 or not 0 <= number < count:
        raise UsageError(f"--process_id={number} must be from 0 to --num_processes={count} less 1")
    return {"address": address, "count": count, "process": number}


def _from_cluster() -> dict[str, Any] | None:
    """The same, and the devices of this process, as its cluster says; None: there is none."""
    # `jax.distributed.initialize` asks the same, but tells nobody what it found.
    from jax._src.clusters import ClusterEnv

    address, count, process, devices = ClusterEnv.auto_detect_unset_distributed_params(
        os.environ.get("JAX_COORDINATOR_ADDRESS"), None, None, None, None, int(_START.value)
    )
    if address is None or count is None or process is None:
        return None
    return {"address": address, "count": count, "process": process, "local_devices": devices}


def started_with() -> dict[str, Any]:
    """What all processes of a run have to have in common: flags, configuration and code."""
    import jax

    values: dict[str, Any] = {
        "the code": _code_digest(_PACKAGE),
        "the version of jax": jax.__version__,
    }
    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        if module.split(".")[0] == "absl":
            continue
        for flag in defined:
            if hasattr(flag.value, "to_dict"):
                values |= flatten(flag.value.to_dict())
            elif isinstance(flag.parser, PathParser):
                # Where a file lies is a host's own affair; whether it is given is not.
                values[f"--{flag.name}"] = "given" if flag.value else "not given"
            elif flag.name not in _OWN and not flag.name.startswith("config"):
                values[f"--{flag.name}"] = flag.value
    return {key: value for key, value in values.items() if key not in HOST_LOCAL}


def _code_digest(package: pathlib.Path) -> str:
    """A digest of all source files of a package."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package).as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:12]
