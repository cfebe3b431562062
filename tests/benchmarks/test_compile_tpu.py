"""The demo's train step as XLA compiles it for four chips of a TPU v5e (`make test-tpu`)."""

import importlib.util
import json
import os
import subprocess
import sys

import jax
import pytest

if importlib.util.find_spec("libtpu") is None:
    pytest.skip("libtpu is not installed (make test-tpu)", allow_module_level=True)

from benchmarks import flops
from iddpm_jax import models
from iddpm_jax.config.build_model import build_model
from iddpm_jax.config.recipes import packaged_recipe
from tests.compiler import ROOT

BATCH = 128


@pytest.fixture(scope="module")
def model():
    config = packaged_recipe("digits")
    config.model.dtype = "bfloat16"
    return build_model(config)


@pytest.fixture(scope="module")
def said():
    """What the command prints: a table, and all of it as JSON in the last line."""
    command = [sys.executable, "-m", "benchmarks.compile_tpu", "--topology=v5e:2x2"]
    command += ["--recipe=digits", f"--batch={BATCH}"]
    plain = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return subprocess.run(command, cwd=ROOT, env=plain, check=True, capture_output=True, text=True)


@pytest.fixture(scope="module")
def found(said):
    return json.loads(said.stdout.splitlines()[-1])


def test_compile_tpu_prints_a_table(said):
    assert "| of each chip; by the compiler, not measured | |" in said.stdout
    assert "| not in bfloat16: out_conv | " in said.stdout


def test_chips_exchange_every_gradient_once_and_nothing_else(found, model):
    collectives = found["collectives"]
    assert {one["kind"] for one in collectives} == {"all-reduce"}
    large = {tuple(one["dtypes"]): one["bytes"] for one in collectives if one["bytes"] > 1024}
    # One sum of each dtype: gradients of what is computed in bfloat16 travel as such.
    assert set(large) == {("f32",), ("bf16",)}
    leaves = jax.tree_util.tree_leaves_with_path(models.abstract_params(model))
    sizes = {jax.tree_util.keystr(path): leaf.size for path, leaf in leaves}
    # A block's last two biases have one gradient where it has a skip convolution.
    parameters = sum(size for name, size in sizes.items() if "['skip']['bias']" not in name)
    assert large["f32",] // 4 + large["bf16",] // 2 == parameters
    assert len(collectives) <= 6


def test_operations_are_those_of_the_network_and_in_bfloat16(found, model):
    expected = 3 * BATCH / 4 * flops.of_network(model, 8)
    assert found["flops"] == pytest.approx(expected, rel=0.3)
    # As in the reference, whose torso alone computes in less than float32.
    layers = {origin.split("/")[-2] for origin in found["products_not_bfloat16"]}
    assert layers == {"time_embed_0", "time_embed_2", "emb_proj", "out_conv"}


def test_program_has_no_large_constant(found):
    assert found["largest_constant_bytes"] < 10_000
