"""Processes of one run find each other before JAX does, so that one that is missing has a name.

What `jax.distributed.initialize` (0.10.2) does by itself, on one machine, asked to wait 15 s: where
a process does not come, the others abort after 22 to 32 s with a stack trace, "RegisterTask:
Deadline Exceeded", that does not say which. Of two with one number the later takes the place of the
other, which aborts. One that was started for another number of processes joins all the same. Two
runs at one port become one run, with the first process of one and the second of the other. So
process 0 calls the roll first, at the same port: every other process connects, says who it is and
what it was given, and gets the same answer as all others. The connections stay open, because the
system closes them however a process ends; `watchdog` looks at them.

Messages are JSON objects, one a line. Nothing is believed of who speaks otherwise; but there is no
password either, so the port belongs into a private network.
"""

import contextlib
import json
import socket
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from iddpm_jax.distributed.comparison import describe_differences
from iddpm_jax.distributed.ending import PeerError
from iddpm_jax.errors import UsageError

_LONGEST = 1 << 20  # Bytes of a message.
_GREETING_SECONDS = 2.0  # For somebody who has connected to say who it is.
_ANSWER_SECONDS = 10.0  # For process 0 to answer, once its own time is up.
_RETRY_SECONDS = 0.2


class Member(NamedTuple):
    """A process of a run: its number, of how many, its host, its process id and what it was given.

    given: names and values, all texts, which have to be the same in all processes.
    """

    process: int
    count: int
    host: str
    pid: int
    given: Mapping[str, str]

    def __str__(self) -> str:
        return f"process {self.process} ({self.host}, pid {self.pid})"


def call_roll(
    address: str, me: Member, timeout: float
) -> tuple[tuple[str, ...], dict[int, socket.socket]]:
    """Waits, in process 0, until all others are there, and answers them.

    Returns:
      What messages call the processes, by number; and the connections to the others.

    Raises:
      UsageError: the port cannot be had.
      PeerError: some did not come within `timeout` seconds; two have the same number; one is of
        another number of processes, or was given something else. All that came are told.
    """
    present: dict[int, tuple[Member, socket.socket]] = {}
    came: list[socket.socket] = []  # Everybody who is owed an answer.
    refusal, deadline = "", time.monotonic() + timeout
    with _listen(address) as server:
        while len(present) < me.count - 1 and not refusal:
            if time.monotonic() > deadline:
                refusal = _absence(address, me.count, present, timeout)
            arrival = _next_arrival(server)
            # One that is no longer there may be started again.
            present = {p: who for p, who in present.items() if not is_closed(who[1])}
            if arrival is None:
                continue
            member, connection = arrival
            came.append(connection)
            refusal = refusal or _conflict(member, me, [m for m, _ in present.values()])
            present.setdefault(member.process, (member, connection))
    members = [me, *(present[process][0] for process in sorted(present))]
    names = tuple(map(str, members))
    given = [member.given for member in members]
    refusal = refusal or describe_differences(given, names, "flags, configuration or code")
    connections = {} if refusal else {p: connection for p, (_, connection) in present.items()}
    for connection in came:
        _send(connection, {"refused": refusal} if refusal else {"names": names})
        if connection not in connections.values():
            connection.close()
    if refusal:
        raise PeerError(refusal)
    return names, connections


def report(
    address: str, me: Member, timeout: float
) -> tuple[tuple[str, ...], dict[int, socket.socket]]:
    """Tells process 0 that this process is there, and waits until all are.

    Returns:
      What messages call the processes, by number; and the connection to process 0.

    Raises:
      PeerError: nothing at `address` was process 0 of this run within `timeout` seconds; or it
        refuses, for the reason of all.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            # Process 0 may begin to wait only now.
            answer, connection = _ask(address, me, timeout + _ANSWER_SECONDS)
            break
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
        if time.monotonic() + _RETRY_SECONDS > deadline:
            raise PeerError(
                f"process 0 is not at {address}: {reason} for {timeout:.0f} s (--start_timeout). "
                "Is it running, and are host and port right?"
            )
        time.sleep(_RETRY_SECONDS)
    if "refused" in answer:
        connection.close()
        raise PeerError(str(answer["refused"]))
    return tuple(map(str, answer["names"])), {0: connection}


def is_closed(connection: socket.socket) -> bool:
    """Whether the other end, which has nothing more to say, has closed a connection."""
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    except OSError:  # The network's fault; the process may well be there.
        return False


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`; UsageError if it is not that."""
    host, colon, port = address.rpartition(":")
    if not colon or not host.strip("[]") or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UsageError(
            f"--coordinator_address={address}: give the host and the port of process 0, as in "
            "node0:1234"
        )
    return host.strip("[]"), int(port)


def _listen(address: str) -> socket.socket:
    _, port = split_address(address)
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    try:
        server = socket.create_server(("", port), family=family, dualstack_ipv6=dual, backlog=512)
    except OSError as error:
        raise UsageError(
            f"--coordinator_address={address}: port {port} of {socket.gethostname()} cannot be "
            f"had: {error.strerror}; give another one to all processes"
        ) from error
    server.settimeout(_RETRY_SECONDS)
    return server


def _next_arrival(server: socket.socket) -> tuple[Member, socket.socket] | None:
    """The next process that comes, and the connection to it; None if none does for a moment."""
    try:
        connection = server.accept()[0]
    except TimeoutError:
        return None
    try:
        process, count, host, pid, given = _receive(connection, _GREETING_SECONDS)["here"]
        host = "".join(c for c in str(host) if c.isprintable())[:100]
        return Member(int(process), int(count), host, int(pid), dict(given)), connection
    except (OSError, ValueError, TypeError, KeyError):
        connection.close()
        return None


def _conflict(member: Member, me: Member, present: Sequence[Member]) -> str:
    """What is wrong with who has come, if anything is."""
    if member.count != me.count:
        return f"{member} was started with --num_processes={member.count}, {me} with {me.count}"
    for other in (me, *present):
        if member.process == other.process:
            return (
                f"--process_id={member.process} was given twice: to {member.host} (pid "
                f"{member.pid}) and to {other.host} (pid {other.pid})"
            )
    return "" if 0 < member.process < me.count else f"there is no --process_id={member.process}"


def _absence(address: str, count: int, present: Collection[int], timeout: float) -> str:
    absent = sorted(set(range(1, count)) - set(present))
    names = ", ".join(map(str, absent[:20])) + (", …" if len(absent) > 20 else "")
    which = f"process {names} has" if len(absent) == 1 else f"processes {names} have"
    return (
        f"{which} not come to {address} within {timeout:.0f} s (--start_timeout), of "
        f"{count} processes"
    )


def _ask(address: str, me: Member, seconds: float) -> tuple[dict[str, Any], socket.socket]:
    """The answer of process 0, and the connection; OSError or ValueError if there is none."""
    connection = socket.create_connection(split_address(address), timeout=seconds)
    try:
        _send(connection, {"here": me})
        answer = _receive(connection, seconds)
        if answer.keys() not in ({"refused"}, {"names"}):
            raise ValueError("what answers there is not process 0 of this run")
        return answer, connection
    except BaseException:
        connection.close()
        raise


def _send(connection: socket.socket, message: Mapping[str, Any]) -> None:
    """Sends a message; one that cannot be sent is lost, as its receiver is."""
    with contextlib.suppress(OSError):
        # Firewalls forget connections that are silent for long.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.sendall(json.dumps(message).encode() + b"\n")


def _receive(connection: socket.socket, seconds: float) -> dict[str, Any]:
    """The next message; OSError or ValueError if none comes."""
    connection.settimeout(seconds)
    with contextlib.suppress(ValueError, RecursionError):
        with connection.makefile("rb") as lines:
            message = json.loads(lines.readline(_LONGEST))
        connection.settimeout(None)
        if isinstance(message, dict):
            return message
    raise ValueError("what answers there is not process 0 of this run")
