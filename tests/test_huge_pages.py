import os
import subprocess
import sys

import pytest

from iddpm_jax import huge_pages

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


def _printed(*command) -> list[str]:
    env = {**os.environ, "PYTHONPATH": os.getcwd()}
    command = [sys.executable, *command]
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return result.stdout.splitlines()


def test_a_program_starts_again_once_with_the_same_arguments(system, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    arguments = [str(system), "--flag=a b", ""]
    first, second, last = _printed("-Wignore", program, *arguments)
    assert first == second  # The same process.
    assert last == f"{ASKED['GLIBC_TUNABLES']} {arguments} __main__"


@pytest.mark.parametrize(
    "run", [["-m", "pdb", "-c", "continue"], ["-c", "import runpy; runpy.run_path({0!r})"]]
)
def test_a_program_inside_another_one_goes_on_as_it_is(system, tmp_path, run):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    run = [word.format(str(program)) for word in run]
    printed = _printed(*run, *([program] if "pdb" in run else []), system)
    assert [line.split()[0] for line in printed if "always" not in line][1] == "None"


def test_a_system_that_cannot_be_read_stops_no_program(system, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    pid, last = _printed(program, tmp_path)  # A folder, which is no file to read.
    assert pid.isdecimal()
    assert last.startswith("None")
