"""Becoming one of several processes, and leaving them."""

import atexit
import os
import sys
import time
import types
from collections.abc import Sequence

import jax
from jax.experimental import multihost_utils

from iddpm_jax.distributed import run
from iddpm_jax.distributed.lifeline import Lifeline
from iddpm_jax.distributed.relay import Relay
from iddpm_jax.distributed.roll_call import call_roll, report, split_address, this_process
from iddpm_jax.errors import UsageError

_CONNECT_SECONDS = 120  # For JAX to join processes that are all there.
_SHUTDOWN_SECONDS = 60  # For all to leave, after all have come to their end.
_SHORTEST_HEARTBEAT = 100  # JAX's own.
_NEVER = 10**7  # Seconds, a third of a year.
_NOTICE_SECONDS = 1.0  # For a broken connection to be seen by the thread that says whose it was.

_lifeline: Lifeline | None = None


def join_run(
    address: str,
    count: int,
    process: int,
    start_timeout: float,
    silence: float,
    local_devices: Sequence[int] | None = None,
) -> None:
    """Makes this process number `process` of the `count` of a run.

    Args:
      address: host and port of process 0.
      start_timeout: seconds to wait for process 0, and in process 0 for all others.
      silence: seconds without a sign of life after which a `Watch` ends the run; 0: never. JAX,
        which aborts without saying who is missing, waits for longer.
      local_devices: numbers of the devices that are this process's; None: all of this host.

    Raises:
      UsageError: the address is none, or its port is taken.
      PeerError: some processes did not come.
    """
    global _lifeline
    host, port = split_address(address)
    lines = []
    if count > 1:
        me = this_process(process, count)
        if process == 0:
            lines = call_roll(address, me, start_timeout)
        else:
            lines = [report(address, me, start_timeout)]
            address = Relay(host, port).address
        run.set_process(process, count)
        _lifeline = Lifeline(process, lines)
        sys.excepthook = _end_with_traceback
        # Whoever comes to the end of its program is not missed.
        atexit.register(_lifeline.leave)
    try:
        jax.distributed.initialize(
            coordinator_address=address,
            num_processes=count,
            process_id=process,
            local_device_ids=local_devices,
            initialization_timeout=_CONNECT_SECONDS,
            heartbeat_timeout_seconds=_heartbeat(silence),
            shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
        )
    except RuntimeError as error:
        text = " ".join(str(error).split())
        raise UsageError(f"the processes did not find each other: {text}") from error
    # On CPUs two programs may run at once, and processes that take part in them in different
    # orders wait for each other for ever. Where there are streams, they keep the order.
    jax.config.update("jax_cpu_enable_async_dispatch", False)


def finish() -> None:
    """Waits until all processes have come to their end."""
    if run.count() > 1:
        multihost_utils.sync_global_devices("the end")


def _heartbeat(silence: float) -> int:
    return max(_SHORTEST_HEARTBEAT, int(2 * silence) + 60) if silence else _NEVER


def _end_with_traceback(
    kind: type[BaseException], error: BaseException, trace: types.TracebackType | None
) -> None:
    """Ends a process of several that met a bug, without waiting for the others to end too.

    Where the error is that another one is gone, the line that names it is all there is to say.
    """
    lost = isinstance(error, jax.errors.JaxRuntimeError) and _lifeline is not None
    if lost and _lifeline.broken.wait(_NOTICE_SECONDS):
        time.sleep(60)  # Its thread ends the process.
    sys.__excepthook__(kind, error, trace)
    sys.stdout.flush()
    os._exit(1)
