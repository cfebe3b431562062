import contextlib
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from iddpm_jax.distributed import roll_call
from iddpm_jax.distributed.ending import PeerError
from iddpm_jax.distributed.roll_call import Member, call_roll, is_closed, report, split_address
from iddpm_jax.errors import UsageError

# Seconds that no test waits for; they only end one that hangs.
ENOUGH = 60


@pytest.fixture
def address():
    """A port that nothing listens at, and that nobody else gets meanwhile."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch):
    """Waits for nobody who does not say a word."""
    monkeypatch.setattr(roll_call, "_GREETING_SECONDS", 0.1)
    monkeypatch.setattr(roll_call, "_ANSWER_SECONDS", 0.1)


def _member(process: int, count: int, **given: str) -> Member:
    return Member(process, count, f"host{process}", 100 + process, given)


def _gather(address: str, members, calling: Member):
    """What each gets who reports, and process 0 who calls: a result or an exception."""
    with ThreadPoolExecutor(len(members) + 1) as pool:
        calls = [pool.submit(call_roll, address, calling, ENOUGH)]
        calls += [pool.submit(report, address, member, ENOUGH) for member in members]
        return [call.exception(ENOUGH) or call.result() for call in calls]


def _close(connections) -> None:
    for connection in connections:
        connection.close()


def test_call_roll_and_report_give_connections_to_each_other(address):
    rolls = _gather(address, [_member(p, 3) for p in (1, 2)], _member(0, 3))
    names = tuple(f"process {n} (host{n}, pid {100 + n})" for n in range(3))
    assert [roll[0] for roll in rolls] == [names] * 3
    (_, to_all), (_, of_first), (_, of_second) = rolls
    assert sorted(to_all) == [1, 2]
    assert not any(map(is_closed, (*to_all.values(), of_first[0], of_second[0])))
    of_second[0].close()
    assert to_all[2].recv(1) == b""
    assert [is_closed(to_all[process]) for process in (1, 2)] == [False, True]
    _close([*to_all.values(), of_first[0]])


def test_call_roll_refuses_what_differs_everywhere(address):
    errors = _gather(address, [_member(1, 2, lr="0.5")], _member(0, 2, lr="0.1"))
    said = (
        "the processes differ in their flags, configuration or code: lr is 0.1 on process 0 "
        "(host0, pid 100) and 0.5 on process 1 (host1, pid 101)"
    )
    assert [(type(error), str(error)) for error in errors] == [(PeerError, said)] * 2


def test_call_roll_takes_one_that_was_started_again(address):
    with ThreadPoolExecutor(3) as pool:
        roll = pool.submit(call_roll, address, _member(0, 3), ENOUGH)
        first = None
        while first is None:
            with contextlib.suppress(ConnectionRefusedError):
                first = socket.create_connection(split_address(address))
        roll_call._send(first, {"here": _member(1, 3)})
        first.close()
        others = [pool.submit(report, address, _member(p, 3), ENOUGH) for p in (1, 2)]
        connections = [*roll.result()[1].values(), *(other.result()[1][0] for other in others)]
    assert not any(map(is_closed, connections))
    _close(connections)


def test_call_roll_names_those_that_did_not_come(address):
    with pytest.raises(PeerError) as caught:
        call_roll(address, _member(0, 3), timeout=0.01)
    assert str(caught.value).startswith(f"processes 1, 2 have not come to {address} within 0 s")
    with pytest.raises(PeerError, match="process 1 has not come to "):
        call_roll(address, _member(0, 2), timeout=0.01)


@pytest.mark.parametrize("greeting", [b"GET / HTTP/1.1\r\n\r\n", b"[]\n", b"\xff" * 9000, b""])
def test_call_roll_does_not_mind_strangers(address, greeting):
    strangers = []

    def join_after_a_stranger():
        host, port = split_address(address)
        while not strangers:
            with contextlib.suppress(ConnectionRefusedError):
                strangers.append(socket.create_connection((host, port)))
        strangers[0].sendall(greeting)
        return report(address, _member(1, 2), ENOUGH)

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(join_after_a_stranger)
        names, connections = call_roll(address, _member(0, 2), ENOUGH)
    assert names[1] == "process 1 (host1, pid 101)"
    _close([connections[1], other.result()[1][0], *strangers])


def test_call_roll_refuses_another_number_of_processes_everywhere(address):
    errors = _gather(address, [_member(1, 3)], _member(0, 2))
    said = "process 1 (host1, pid 101) was started with --num_processes=3, process 0 (host0, "
    assert all(isinstance(error, PeerError) and said in str(error) for error in errors)


def test_call_roll_refuses_a_number_that_two_have(address):
    members = [_member(1, 3), Member(1, 3, "other", 7, {})]
    errors = _gather(address, members, _member(0, 3))
    assert all("--process_id=1 was given twice: to " in str(error) for error in errors)
    assert all("host1 (pid 101)" in str(e) and "other (pid 7)" in str(e) for e in errors)


def test_call_roll_says_that_the_port_is_taken(address):
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(split_address(address))
        taken.listen()
        with pytest.raises(UsageError, match="cannot be had: Address already in use"):
            call_roll(address, _member(0, 2), timeout=1)


def test_report_says_that_nothing_listens(address):
    with pytest.raises(PeerError) as caught:
        report(address, _member(1, 2), timeout=0.01)
    assert str(caught.value).startswith(f"process 0 is not at {address}: Connection refused")


_OTHER = "what answers there is not process 0 of this run for "


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(b"HTTP/1.1 400 No\r\n\r\n", _OTHER), (b"{}\n", _OTHER), (None, "timed out")],
)
def test_report_says_that_something_else_listens(answer, reason):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    if answer is None:
                        connections.append(connection)
                        continue
                    connection.sendall(answer)
                    connection.close()

        connections = []
        threading.Thread(target=serve, daemon=True).start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(PeerError, match=f"process 0 is not at {address}: {reason}"):
            report(address, _member(1, 2), timeout=0.01)
        server.shutdown(socket.SHUT_RDWR)
    _close(connections)


@pytest.mark.parametrize("address", ["node0", ":1", "node0:", "node0:x", "node0:99999", "node0:0"])
def test_split_address_refuses_what_is_none(address):
    with pytest.raises(UsageError, match="give the host and the port of process 0"):
        split_address(address)


def test_split_address_takes_one_of_ipv6():
    assert split_address("[::1]:1234") == ("::1", 1234)
