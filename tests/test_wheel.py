"""The package as `pip install` leaves it, far from the repository."""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from tests.commands import TINY, environment
from tests.compiler import ROOT

_LOAD = """
import iddpm_jax
model = iddpm_jax.load("run")
assert iddpm_jax.__file__.startswith({site!r}), iddpm_jax.__file__
print(model.sample(2, respacing="ddim5", sampler="ddim").shape)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A directory that holds what the wheel does, as site-packages would."""
    folder = tmp_path_factory.mktemp("wheel")
    # A copy, so that no earlier build's leavings come along.
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("iddpm_jax", "configs"):
        shutil.copytree(ROOT / name, source / name, symlinks=True)
    build = [sys.executable, "-m", "pip", "wheel", str(source), "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "-w", str(folder)], check=True, capture_output=True, timeout=120)
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.mark.slow  # `.ci/installed` does it in an environment that has nothing else.
def test_the_wheel_trains_samples_and_measures_beside_a_foreign_configs_package(site, tmp_path):
    foreign = tmp_path / "configs"
    foreign.mkdir()
    for name in ("__init__", "default", "digits"):
        (foreign / f"{name}.py").write_text("raise RuntimeError('of another project')\n")

    def run(*arguments: str) -> str:
        result = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={**environment(), "PYTHONPATH": str(site) + os.pathsep + str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert result.returncode == 0, (arguments, result.stderr)
        return result.stdout

    flags = ["--config=digits", *TINY, "--config.train.num_steps=5"]
    run("-m", "iddpm_jax", "train", "--workdir=run", *flags)
    run("-m", "iddpm_jax.sample", "--workdir=run", "--num_samples=4", "--out=drawn")
    assert (tmp_path / "drawn" / "samples.npz").is_file()
    assert run("-c", _LOAD.format(site=str(site))) == "(2, 8, 8, 1)\n"
    assert "bits/dim" in run("-m", "iddpm_jax.nll", "--workdir=run", "--num_samples=8")
    assert "checkpoint 5: sound" in run("-m", "iddpm_jax.check_workdir", "--workdir=run")


def test_the_wheel_has_the_console_script_and_every_recipe(site):
    [scripts] = site.glob("*.dist-info/entry_points.txt")
    assert "iddpm = iddpm_jax.__main__:main" in scripts.read_text()
    installed = {path.name for path in (site / "iddpm_jax" / "recipes").glob("*.py")}
    assert installed == {path.name for path in (ROOT / "configs").glob("*.py")}
    assert (site / "iddpm_jax" / "py.typed").is_file()
