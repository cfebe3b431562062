import pytest

from iddpm_jax.distributed import check_same_directory, check_same_everywhere, comparison
from iddpm_jax.distributed.roll_call import PeerError


class _Store:
    """The key-value store as process 0 sees it, in which the others have answered before."""

    def __init__(self, *answers: str):
        self.values = {}
        self.answers = answers

    def key_value_set(self, key, value):
        self.values[key] = value

    def blocking_key_value_get(self, key, timeout_in_ms):
        return self.answers[int(key.rpartition("/")[2]) - 1]

    def wait_at_barrier(self, name, timeout_in_ms):
        pass


@pytest.fixture
def run_of(monkeypatch):
    """Makes this process the first of several, the others of which give the answers."""

    def make(*answers: str) -> _Store:
        store = _Store(*answers)
        monkeypatch.setattr(comparison.distributed.global_state, "client", store)
        monkeypatch.setattr(comparison.run, "_count", 1 + len(answers))
        monkeypatch.setattr(comparison.socket, "gethostname", lambda: "a")
        return store

    return make


def test_check_same_everywhere_takes_what_is_the_same(run_of):
    store = run_of('{"host": "b", "values": {"lr": "0.1", "size": "[1, 2]"}}')
    check_same_everywhere({"size": (1, 2), "lr": 0.1}, "configuration")
    assert list(store.values.values()) == [""]  # What the others are told.


def test_check_same_everywhere_names_keys_values_and_hosts(run_of):
    other = '{"host": "%s", "values": {"lr": "%s", "seed": "0"}}'
    store = run_of(other % ("b", "0.5"), other % ("c", "0.1"))
    message = (
        "the processes differ in their configuration: lr is 0.1 on process 0 (a), process 2 (c) "
        "and 0.5 on process 1 (b); seed is nothing on process 0 (a) and 0 on process 1 (b), "
        "process 2 (c)"
    )
    with pytest.raises(PeerError) as caught:
        check_same_everywhere({"lr": 0.1}, "configuration")
    assert str(caught.value) == message
    assert list(store.values.values()) == [message]


def test_check_same_everywhere_tells_long_values_apart_in_a_short_line(run_of):
    run_of('{"host": "b", "values": {"names": "[]"}}')
    with pytest.raises(PeerError) as caught:
        check_same_everywhere({"names": ["x" * 1000] * 1000}, "data")
    assert "(1,004,000 characters, SHA-256 " in str(caught.value)
    assert len(str(caught.value)) < 300


def test_check_same_everywhere_names_some_of_many_keys(run_of):
    run_of('{"host": "b", "values": {}}')
    with pytest.raises(PeerError, match="; and 95 more"):
        check_same_everywhere({f"key{n}": n for n in range(100)}, "configuration")


def test_check_same_directory_refuses_one_that_only_some_see(run_of, tmp_path):
    run_of('{"host": "b", "seen": false, "path": "/there"}')
    with pytest.raises(PeerError) as caught:
        check_same_directory(tmp_path)
    assert str(caught.value) == (
        "all processes have to share one directory, but /there of process 1 (b) is not "
        f"{tmp_path} of process 0 (a); give all of them the same --workdir and --out"
    )
    assert list((tmp_path / ".processes").iterdir()) == []


def test_check_same_directory_takes_one_that_all_see(run_of, tmp_path):
    run_of('{"host": "b", "seen": true, "path": "/there"}')
    check_same_directory(tmp_path)


def test_checks_of_a_process_alone_need_nobody(tmp_path):
    check_same_everywhere({"lr": 0.1}, "configuration")
    check_same_directory(tmp_path / "none")
