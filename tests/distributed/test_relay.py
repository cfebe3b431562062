import socket

import pytest

from iddpm_jax.distributed.relay import Relay

ENOUGH = 60  # Seconds that no test waits for.


@pytest.fixture
def ends():
    """Two sockets with a relay between them: the near one connected through it to the far one."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        relay = Relay(*server.getsockname())
        host, port = relay.address.split(":")
        near = socket.create_connection((host, int(port)), timeout=ENOUGH)
        server.settimeout(ENOUGH)
        far, _ = server.accept()
        far.settimeout(ENOUGH)
        with near, far:
            yield near, far


def _receive(end: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += end.recv(count - len(data))
    return data


def test_relay_passes_everything_on_both_ways(ends):
    near, far = ends
    data = bytes(range(256)) * 1000
    for source, to in ((near, far), (far, near)):
        source.sendall(data)
        assert _receive(to, len(data)) == data


def test_relay_keeps_the_end_of_the_far_side_to_itself(ends):
    near, far = ends
    far.sendall(b"last")
    far.close()
    assert _receive(near, 4) == b"last"
    near.settimeout(0.2)
    with pytest.raises(TimeoutError):  # An end would be b"".
        near.recv(1)
    near.sendall(b"heard by nobody")


def test_relay_passes_on_the_end_of_the_near_side(ends):
    near, far = ends
    near.close()
    assert far.recv(1) == b""
