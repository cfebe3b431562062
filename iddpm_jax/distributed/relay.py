"""JAX's connections to process 0, held open when it is gone.

JAX's client aborts, with a stack trace, in the instant in which its connection to the service in
process 0 breaks, and lets nobody speak before. So it connects to a relay in its own process, which
passes everything on except that end. Who is gone is then said by `lifeline`, in one line.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable

_START_SECONDS = 60.0  # For the service to be there, once all processes are.
_BLOCK = 1 << 16  # Bytes.


class Relay:
    """Listens at a port of this machine only, and passes what comes to `host` and `port`."""

    def __init__(self, host: str, port: int):
        self._to = host, port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        _start(self._accept)

    def _accept(self) -> None:
        while True:
            _start(self._serve, self._server.accept()[0])

    def _serve(self, near: socket.socket) -> None:
        far = self._connect()
        if far is None:
            near.close()
            return
        for end in (near, far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with near, far:
            back = _start(_pass_on, far, near)
            _pass_on(near, far)
            # JAX has ended this connection by itself.
            with contextlib.suppress(OSError):
                far.shutdown(socket.SHUT_RDWR)  # Wakes the thread that reads from it.
            back.join()

    def _connect(self) -> socket.socket | None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                connection = socket.create_connection(self._to)
                connection.settimeout(None)
                return connection
            except OSError:
                if time.monotonic() > deadline:
                    return None
                time.sleep(0.05)


def _pass_on(source: socket.socket, to: socket.socket) -> None:
    """Copies until `source` ends, which `to` does not learn."""
    with contextlib.suppress(OSError):
        while data := source.recv(_BLOCK):
            # What can no longer be sent is read all the same, so that its end is seen.
            with contextlib.suppress(OSError):
                to.sendall(data)


def _start(function: Callable[..., None], *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=function, args=arguments, daemon=True)
    thread.start()
    return thread
