"""Flags by which processes find each other, and joining them."""

from absl import flags

from iddpm_jax.errors import UsageError

_COORDINATOR = flags.DEFINE_string(
    "coordinator_address",
    None,
    "Host and port of process 0, such as node0:1234, for a run of several processes. Not needed "
    "where they find each other: SLURM, Open MPI, Cloud TPU, Kubernetes.",
)
_COUNT = flags.DEFINE_integer(
    "num_processes", None, "Number of processes; 1: this one alone, whatever is around it."
)
_ID = flags.DEFINE_integer("process_id", None, "Number of this process, from 0.")
_TIMEOUT = flags.DEFINE_float(
    "peer_timeout",
    600.0,
    "Seconds after which a process that makes no step ends all of them, as does one that is gone "
    "after a tenth of that; 0: never.",
    lower_bound=0,
)

_START_SECONDS = 300  # For all processes to be there.


def peer_timeout() -> float:
    """What --peer_timeout says."""
    return _TIMEOUT.value


def join() -> None:
    """Makes this process one of several, if it is, before JAX looks for its devices.

    Raises:
      UsageError: the flags are wrong, or the others do not come.
    """
    given = {"coordinator_address": _COORDINATOR, "num_processes": _COUNT, "process_id": _ID}
    values = {name: flag.value for name, flag in given.items()}
    if values["num_processes"] == 1:
        return
    if all(value is None for value in values.values()):
        _join_cluster()
        return
    missing = [f"--{name}" for name, value in values.items() if value is None]
    if missing:
        raise UsageError(f"{' and '.join(missing)} missing: a process needs {', '.join(given)}")
    count, number = values["num_processes"], values["process_id"]
    if count < 1 or not 0 <= number < count:
        raise UsageError(f"--process_id={number} must be from 0 to --num_processes={count} less 1")
    _, colon, port = values["coordinator_address"].rpartition(":")
    if not colon or not port.isdecimal():
        raise UsageError(
            f"--coordinator_address={values['coordinator_address']}: give host and port"
        )
    _initialize(**values)


def _join_cluster() -> None:
    try:
        _initialize()
    except ValueError as error:
        # What JAX says where it finds no cluster around it.
        if "coordinator_address" not in str(error):
            raise


def _initialize(**arguments) -> None:
    import jax

    try:
        jax.distributed.initialize(initialization_timeout=_START_SECONDS, **arguments)
    except RuntimeError as error:
        raise UsageError(
            f"the processes did not find each other: {' '.join(str(error).split())}"
        ) from error
    # On CPUs two programs may run at once, and processes that take part in them in different
    # orders wait for each other for ever. Where there are streams, they keep the order.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
