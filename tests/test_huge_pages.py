import pytest

from iddpm_jax import huge_pages
from tests.commands import run
from tests.conftest import ROOT

ASKED = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A system with CPUs only that gives huge pages to who asks; the file that says so."""
    enabled = tmp_path / "enabled"
    enabled.write_text("always [madvise] never\n")
    monkeypatch.setattr(huge_pages, "_ENABLED", enabled)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    return enabled


def test_programs_on_cpus_ask_for_huge_pages(system):
    assert huge_pages.variables() == ASKED


@pytest.mark.parametrize("said", ["[always] madvise never\n", "always madvise [never]\n", None])
def test_nothing_is_asked_where_it_would_change_nothing(system, said):
    system.unlink() if said is None else system.write_text(said)
    assert huge_pages.variables() == {}


def test_a_malloc_that_is_tuned_already_is_left_alone(system, monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "")
    assert huge_pages.variables() == {}


def test_nothing_is_asked_where_arrays_may_live_on_accelerators(system, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda,cpu")
    assert huge_pages.variables() == {}
    monkeypatch.delenv("JAX_PLATFORMS")
    monkeypatch.setattr(huge_pages.importlib.metadata, "entry_points", lambda group: [group])
    assert huge_pages.variables() == {}


# Behaves as on a system with such pages; prints what it was started with.
PROGRAM = """
import os, pathlib, sys
from iddpm_jax import huge_pages
huge_pages._ENABLED = pathlib.Path(sys.argv[1])
print(os.getpid(), flush=True)
huge_pages.restart_with()
print(os.environ.get("GLIBC_TUNABLES"), sys.argv[1:], __name__)
"""


@pytest.fixture
def program(system, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


def _printed(*command) -> list[str]:
    result = run(list(command))
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_a_program_starts_again_once_with_the_same_arguments(system, program):
    arguments = [str(system), "--flag=a b", ""]
    first, second, last = _printed("-Wignore", program, *arguments)
    assert first == second  # The same process.
    assert last == f"{ASKED['GLIBC_TUNABLES']} {arguments} __main__"


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "pdb", "-c", "continue", "{program}"],
        ["-c", "import runpy; runpy.run_path('{program}')"],
    ],
    ids=["pdb", "runpy"],
)
def test_a_program_inside_another_one_goes_on_as_it_is(system, program, command):
    printed = _printed(*(word.format(program=program) for word in command), system)
    assert printed[1].split()[0] == "None"


def test_a_system_that_cannot_be_read_stops_no_program(program, tmp_path):
    pid, last = _printed(program, tmp_path)  # A folder, which is no file to read.
    assert pid.isdecimal()
    assert last.startswith("None")
