"""Becoming one of several processes, and leaving them."""

import os
import socket
import sys
import time
import types
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.experimental import multihost_utils

from iddpm_jax.distributed import run, watchdog
from iddpm_jax.distributed.comparison import as_texts
from iddpm_jax.distributed.ending import end_process
from iddpm_jax.distributed.roll_call import Member, call_roll, report
from iddpm_jax.errors import UsageError

_CONNECT_SECONDS = 120  # For JAX to join processes that are all there.
_SHUTDOWN_SECONDS = 60  # For all to leave, after all have come to their end.
_SHORTEST_HEARTBEAT = 100  # JAX's own.
_NEVER = 10**7  # Seconds, a third of a year.
_NOTICE_SECONDS = 5.0  # For the watchdog to find who is gone, where that was the reason.


def join_run(
    address: str,
    count: int,
    process: int,
    *,
    start_timeout: float,
    peer_timeout: float,
    given: Mapping[str, Any],
    local_devices: Sequence[int] | None = None,
) -> None:
    """Makes this process number `process` of the `count` of a run.

    Args:
      address: host and port of process 0.
      start_timeout: seconds to wait for process 0, and in process 0 for all others.
      peer_timeout: seconds that a step may take, as `Watchdog` takes them. JAX, which aborts with
        a stack trace, waits for longer than a tenth of them.
      given: names and values that have to be the same in all processes.
      local_devices: numbers of the devices that are this process's; None: all of this host.

    Raises:
      UsageError: the address is none, or its port is taken.
      PeerError: some processes did not come, or were given something else.
    """
    run.set_process(process, tuple(f"process {number}" for number in range(count)))
    connections: Mapping[int, socket.socket] = {}
    if count > 1:
        me = Member(process, count, socket.gethostname(), os.getpid(), as_texts(given))
        names, connections = (report if process else call_roll)(address, me, start_timeout)
        run.set_process(process, names)
    try:
        jax.distributed.initialize(
            coordinator_address=address,
            num_processes=count,
            process_id=process,
            local_device_ids=local_devices,
            initialization_timeout=_CONNECT_SECONDS,
            heartbeat_timeout_seconds=_heartbeat(peer_timeout),
            shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
        )
    except RuntimeError as error:
        text = " ".join(str(error).split())
        raise UsageError(f"the processes did not find each other: {text}") from error
    if count > 1:
        watchdog.start(peer_timeout, connections)
        sys.excepthook = _end_with_traceback
    # On CPUs two programs may run at once, and processes that take part in them in different
    # orders wait for each other for ever. Where there are streams, they keep the order.
    jax.config.update("jax_cpu_enable_async_dispatch", False)


def finish() -> None:
    """Waits until all processes have come to their end."""
    if run.count() > 1:
        multihost_utils.sync_global_devices("the end")


def _heartbeat(peer_timeout: float) -> int:
    silence = watchdog.SILENCE * peer_timeout
    return max(_SHORTEST_HEARTBEAT, int(2 * silence) + 60) if silence else _NEVER


def _end_with_traceback(
    kind: type[BaseException], error: BaseException, trace: types.TracebackType | None
) -> None:
    """Ends a process of several that met a bug, without waiting for the others to end too.

    Where another one is gone the connection to it breaks in whatever was under way: then the
    watchdog, which knows its name, ends this process.
    """
    sys.__excepthook__(kind, error, trace)
    time.sleep(_NOTICE_SECONDS)
    end_process(f"error: process {run.process()} ended with the error above")
