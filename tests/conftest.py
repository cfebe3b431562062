"""Fixtures shared by all tests: eight fake devices, a compilation cache, the golden files."""

import gc
import json
import os
import pathlib
import re

from tests import compiler

# Before jax is imported: eight CPU devices, so that sharding is tested on any machine.
os.environ.update(compiler.environment(devices=8))

import jax
import jaxtyping
import numpy as np
import pytest
from absl import logging as absl_logging

from tests.compiler import ROOT

# Tracing makes millions of small objects, none of them garbage; a tenth of the time went there.
gc.set_threshold(50_000, 20, 50)

# A float32 that an int32 meets, or an image `[B, H, W, C]` that a vector `[B]` meets, is a mistake
# until the code says otherwise.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Before these packages are imported: every call checks the shapes and types of its annotations.
SHAPES_CHECKED = ("diffusion", "models", "sampling")
jaxtyping.install_import_hook(
    [f"iddpm_jax.{module}" for module in SHAPES_CHECKED],
    # An int is a float, as it is for type checkers.
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)


def pytest_addoption(parser):
    parser.addoption(
        "--golden-dir",
        default=str(ROOT / "tests" / "golden"),
        help="folder with the reference's golden values",
    )


class Golden:
    """One set of golden files. `report` notes the largest error that a test saw."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.errors: dict[str, float] = {}

    def npz(self, name: str) -> dict[str, np.ndarray]:
        with np.load(self.folder / f"{name}.npz") as arrays:
            return {key: arrays[key] for key in arrays.files}

    def json(self, name: str):
        return json.loads((self.folder / f"{name}.json").read_text())

    @property
    def seed(self) -> int:
        """Seed of the filler weights: in the set's SEED file, or 0."""
        file = self.folder / "SEED"
        return int(file.read_text()) if file.exists() else 0

    def report(self, what: str, error: float) -> float:
        self.errors[what] = max(self.errors.get(what, 0.0), float(error))
        return error


_golden_errors: dict[str, float] = {}


@pytest.fixture(scope="session")
def golden(request) -> Golden:
    folder = pathlib.Path(request.config.getoption("--golden-dir"))
    if not folder.is_dir():
        pytest.fail(f"--golden-dir={folder} is not a folder")
    golden = Golden(folder)
    golden.errors = _golden_errors
    return golden


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """One more than there are cores: tests of several processes wait for a good part of it."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_finish():
    gc.freeze()  # What was imported stays: no collection needs to look at it.


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):  # A worker of pytest-xdist.
        session.config.workeroutput["golden_errors"] = _golden_errors


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    for what, error in getattr(node, "workeroutput", {}).get("golden_errors", {}).items():
        _golden_errors[what] = max(_golden_errors.get(what, 0.0), error)


def pytest_terminal_summary(terminalreporter):
    if _golden_errors:
        terminalreporter.section("parity: largest error seen")
        for what, error in sorted(_golden_errors.items()):
            terminalreporter.write_line(f"{what:58s} {error:.2e}")


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory) -> pathlib.Path:
    """The work directory of six steps of the real main.py."""
    # Imported late: the module needs the environment that this one sets up.
    from tests.commands import train

    workdir = tmp_path_factory.mktemp("runs") / "whole"
    result = train(workdir, "--config.train.num_steps=6", "--config.train.label_dropout=0.1")
    assert result.returncode == 0, result.stderr
    assert "UNet: " in result.stdout
    assert "Total: " not in result.stdout
    assert re.search(r"step 6/6 \| loss [01]\.\d", result.stdout)
    return workdir


@pytest.fixture(scope="module")
def compiled_once():
    """Loops of runs that `tiny.run_of` made use one program for equal parts."""
    from tests import tiny

    with pytest.MonkeyPatch.context() as patch:
        tiny.share_programs(patch)
        yield


@pytest.fixture
def unchecked():
    """Lets annotations go unchecked, where a test gives what they do not allow."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def warned(caplog):
    """What absl logs as a warning."""
    caplog.set_level("WARNING", logger="absl")
    absl_logging.use_absl_handler()
    logger = absl_logging.get_absl_logger()
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)
