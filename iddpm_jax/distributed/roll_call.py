"""Processes of one run find each other before JAX does, so that one that is missing has a name.

`jax.distributed.initialize` waits for all processes, and where one does not come it aborts with a
stack trace that does not say which. Therefore process 0 calls the roll first, at the same port:
every other process connects and says who it is, and gets the word to go on once all are there. The
connections stay open; `lifeline` watches them.

Messages are JSON objects, one a line. Nothing is believed of who speaks otherwise; but there is no
password either, so the port belongs into a private network.
"""

import contextlib
import json
import os
import selectors
import socket
import time
from collections.abc import Iterable
from typing import Any, NamedTuple, NoReturn

from iddpm_jax.errors import UsageError

_LONGEST = 4096  # Bytes of a message.
_ANSWER_SECONDS = 10.0  # For process 0 to say that it is one.
_RETRY_SECONDS = 0.2


class PeerError(UsageError):
    """Another process could not do its part."""


class Member(NamedTuple):
    """A process of a run: its number, of how many, its host and its number there."""

    process: int
    count: int
    host: str
    pid: int

    def __str__(self) -> str:
        return f"process {self.process} ({self.host}, pid {self.pid})"


def this_process(process: int, count: int) -> Member:
    """This process as a member of a run."""
    return Member(process, count, socket.gethostname(), os.getpid())


class Line:
    """A connection between process 0 and another one, and who is at its other end."""

    def __init__(self, connection: socket.socket):
        self.member: Member | None = None
        self.socket = connection
        self.ended = False  # Nothing more is expected from the other end.
        self._received = b""
        # Firewalls forget connections that are silent for long.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def tell(self, **message: Any) -> None:
        """Sends a message; one that cannot be sent is lost, as its receiver is."""
        with contextlib.suppress(OSError):
            self.socket.sendall(json.dumps(message).encode() + b"\n")

    def hear(self) -> dict[str, Any] | None:
        """Waits for bytes, and returns the message that is whole with them, if there is one.

        Raises:
          EOFError: the other process is gone, or is none of ours.
          TimeoutError: the socket's timeout has passed.
        """
        if b"\n" not in self._received:
            try:
                received = self.socket.recv(_LONGEST)
            except ConnectionError as error:
                raise EOFError from error
            self._received += received
            if not received or len(self._received) > _LONGEST:
                raise EOFError
        text, newline, rest = self._received.partition(b"\n")
        if not newline:
            return None
        self._received = rest
        try:
            message = json.loads(text)
        except (ValueError, RecursionError):
            raise EOFError from None
        if not isinstance(message, dict):
            raise EOFError
        return message

    def wait(self, seconds: float) -> dict[str, Any]:
        """Waits for a whole message; raises as `hear` does."""
        deadline = time.monotonic() + seconds
        message = None
        while message is None:
            self.socket.settimeout(max(deadline - time.monotonic(), 0.001))
            message = self.hear()
        return message

    def close(self) -> None:
        self.socket.close()


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`; UsageError if it is not that."""
    host, colon, port = address.rpartition(":")
    if not colon or not host.strip("[]") or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UsageError(
            f"--coordinator_address={address}: give the host and the port of process 0, as in "
            "node0:1234"
        )
    return host.strip("[]"), int(port)


def call_roll(address: str, me: Member, timeout: float) -> list[Line]:
    """Waits, in process 0, until all others are there.

    Returns:
      A line to each of them.

    Raises:
      UsageError: the port cannot be had.
      PeerError: some did not come within `timeout` seconds; two have the same number; or one is of
        another number of processes. Those that are there have been told.
    """
    present: dict[int, Line] = {}
    lines: set[Line] = set()
    try:
        _await_all(address, me, timeout, present, lines)
        for line in present.values():
            line.tell(go=True)
        lines -= set(present.values())
    finally:
        for line in lines:
            line.close()
    return list(present.values())


def report(address: str, me: Member, timeout: float) -> Line:
    """Tells process 0 that this process is there, and waits until all are.

    Returns:
      The line to process 0.

    Raises:
      PeerError: nothing at `address` was process 0 of this run within `timeout` seconds; or it
        has not seen all processes in as many more.
    """
    deadline = time.monotonic() + timeout
    reason = ""
    while True:
        try:
            line = _connect(address, me, deadline)
            break
        except (OSError, EOFError) as error:
            reason = _reason(error)
        if time.monotonic() + _RETRY_SECONDS > deadline:
            raise PeerError(
                f"process 0 is not at {address}: {reason} for {timeout:.0f} s (--start_timeout). "
                "Is it running, and are host and port right?"
            )
        time.sleep(_RETRY_SECONDS)
    try:
        # Process 0 may have begun to wait only now.
        answer = line.wait(timeout + _ANSWER_SECONDS)
        if "refused" in answer:
            raise PeerError(str(answer["refused"]))
    except EOFError:
        line.close()
        raise PeerError(f"{line.member} ended before all {me.count} processes had come") from None
    except TimeoutError:
        line.close()
        raise PeerError(f"{line.member} has not said a word for {timeout:.0f} s") from None
    except PeerError:
        line.close()
        raise
    return line


def _listen(address: str) -> socket.socket:
    _, port = split_address(address)
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    try:
        return socket.create_server(("", port), family=family, dualstack_ipv6=dual, backlog=512)
    except OSError as error:
        raise UsageError(
            f"--coordinator_address={address}: port {port} of {socket.gethostname()} cannot be "
            f"had: {error.strerror}; give another one to all processes"
        ) from error


def _await_all(
    address: str, me: Member, timeout: float, present: dict[int, Line], lines: set[Line]
) -> None:
    """Fills in who is `present`, until all are; `lines` are theirs and those of strangers."""
    deadline = time.monotonic() + timeout
    with _listen(address) as server, selectors.DefaultSelector() as ready:
        ready.register(server, selectors.EVENT_READ)
        while len(present) < me.count - 1:
            left = deadline - time.monotonic()
            if left <= 0:
                absent = sorted(set(range(1, me.count)) - present.keys())
                _refuse(present.values(), _absence(absent, address, me.count, timeout))
            for key, _ in ready.select(left):
                if key.fileobj is server:
                    line = Line(server.accept()[0])
                    lines.add(line)
                    ready.register(line.socket, selectors.EVENT_READ, line)
                elif not _is_there(key.data, me, present):
                    ready.unregister(key.fileobj)
                    key.data.close()


def _is_there(line: Line, me: Member, present: dict[int, Line]) -> bool:
    """Hears what came over a line; whether to keep it."""
    try:
        message = line.hear()
    except EOFError:
        if line.member is not None and present.get(line.member.process) is line:
            del present[line.member.process]  # It may come again.
        return False
    if message is None:
        return True
    member = _member(message.get("here"))
    if member is None or line.member is not None:
        return False
    line.member = member
    if member.count != me.count:
        _refuse(
            [*present.values(), line],
            f"{member} was started with --num_processes={member.count}, {me} with {me.count}",
        )
    if not 0 < member.process < me.count or member.process in present:
        other = present[member.process].member if member.process in present else me
        _refuse(
            [*present.values(), line],
            f"--process_id={member.process} was given twice: to {member.host} (pid {member.pid}) "
            f"and to {other.host} (pid {other.pid})",
        )
    present[member.process] = line
    line.tell(welcome=me)
    return True


def _member(value: Any) -> Member | None:
    """Who somebody says that he is, if it is well-formed."""
    if not isinstance(value, list) or [type(part) for part in value] != [int, int, str, int]:
        return None
    process, count, host, pid = value
    return Member(process, count, "".join(c for c in host if c.isprintable())[:100], pid)


def _refuse(lines: Iterable[Line], text: str) -> NoReturn:
    for line in lines:
        line.tell(refused=text)
    raise PeerError(text)


def _absence(absent: list[int], address: str, count: int, timeout: float) -> str:
    names = ", ".join(map(str, absent[:20])) + (", …" if len(absent) > 20 else "")
    which = f"process {names} has" if len(absent) == 1 else f"processes {names} have"
    return (
        f"{which} not come to {address} within {timeout:.0f} s (--start_timeout), of "
        f"{count} processes"
    )


def _connect(address: str, me: Member, deadline: float) -> Line:
    """A line to process 0; OSError or EOFError if it is not there."""
    left = max(deadline - time.monotonic(), _RETRY_SECONDS)
    connection = socket.create_connection(split_address(address), timeout=left)
    line = Line(connection)
    try:
        line.tell(here=me)
        answer = line.wait(min(left, _ANSWER_SECONDS))
        if "refused" in answer:
            raise PeerError(str(answer["refused"]))
        line.member = _member(answer.get("welcome"))
        if line.member is None or line.member.process != 0:
            raise EOFError
    except BaseException:
        line.close()
        raise
    return line


def _reason(error: Exception) -> str:
    if isinstance(error, EOFError | TimeoutError):
        return "what answers there is not process 0 of this run, or does not answer,"
    return (getattr(error, "strerror", None) or str(error)).rstrip(".")
