import json

import pytest

from iddpm_jax.distributed import check_same_directory, check_same_everywhere, comparison
from iddpm_jax.distributed.comparison import as_texts, describe_differences, gather_texts
from iddpm_jax.distributed.ending import PeerError

NAMES = ("process 0 (a, pid 1)", "process 1 (b, pid 2)", "process 2 (c, pid 3)")


@pytest.fixture
def run_of(monkeypatch):
    """Makes this process the first of several, the others of which give the answers in turn."""

    def make(*answers: str) -> None:
        names = NAMES[: 1 + len(answers)]
        monkeypatch.setattr(comparison.jax, "process_count", lambda: len(names))
        monkeypatch.setattr(comparison.run, "_names", names)
        monkeypatch.setattr(comparison, "gather_texts", lambda text: [text, *answers])

    return make


def test_check_same_everywhere_takes_what_is_the_same(run_of):
    run_of('{"lr": "0.1", "size": "[1, 2]"}')
    check_same_everywhere({"size": (1, 2), "lr": 0.1}, "configuration")


def test_check_same_everywhere_names_keys_values_and_hosts(run_of):
    run_of('{"lr": "0.5", "seed": "0"}', '{"lr": "0.1", "seed": "0"}')
    with pytest.raises(PeerError) as caught:
        check_same_everywhere({"lr": 0.1}, "configuration")
    assert str(caught.value) == (
        "the processes differ in their configuration: lr is 0.1 on process 0 (a, pid 1), "
        "process 2 (c, pid 3) and 0.5 on process 1 (b, pid 2); seed is nothing on process 0 (a, "
        "pid 1) and 0 on process 1 (b, pid 2), process 2 (c, pid 3)"
    )


def test_describe_differences_names_some_of_many_keys():
    line = describe_differences([{f"key{n}": "0" for n in range(100)}, {}], NAMES[:2], "data")
    assert line.endswith("; and 95 more")
    assert describe_differences([{"key": "0"}] * 2, NAMES[:2], "data") == ""


def test_as_texts_tells_long_values_apart_in_a_short_line():
    one, other = (as_texts({"names": [x * 1000] * 1000})["names"] for x in "xy")
    assert "(1,004,000 characters, SHA-256 " in one
    assert len(one) < 200
    assert one != other


def test_gather_texts_of_a_process_alone_is_its_own():
    assert gather_texts("größer") == ["größer"]


def test_check_same_directory_refuses_one_that_only_some_see(run_of, tmp_path, monkeypatch):
    run_of('[false, "/there"]')
    with pytest.raises(PeerError) as caught:
        check_same_directory(tmp_path)
    assert str(caught.value) == (
        "all processes have to share one directory, but /there of process 1 (b, pid 2) is not "
        f"{tmp_path} of process 0 (a, pid 1); give all of them the same --workdir and --out"
    )
    assert list((tmp_path / ".processes").iterdir()) == []


def test_check_same_directory_takes_one_that_all_see(run_of, tmp_path):
    run_of(json.dumps([True, "/there"]))
    check_same_directory(tmp_path)


def test_checks_of_a_process_alone_need_nobody(tmp_path):
    check_same_everywhere({"lr": 0.1}, "configuration")
    check_same_directory(tmp_path / "none")
    assert not (tmp_path / "none").exists()
