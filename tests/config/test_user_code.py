"""Schedules, networks and data of a user's own: with the files that docs/extending.md shows."""

import importlib
import pathlib
import re
import sys

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

import iddpm_jax
from iddpm_jax.config import user_code
from iddpm_jax.config.build_data import build_source
from iddpm_jax.config.build_diffusion import build_diffusion
from iddpm_jax.config.build_model import build_model
from iddpm_jax.config.record import flat_config
from iddpm_jax.errors import UsageError
from tests.commands import run
from tests.compiler import ROOT

NAMES = {
    "diffusion.noise_schedule": "my_parts:betas",
    "model.network": "my_parts:make_network",
    "data.name": "my_parts:make_source",
}


def _write_snippets(folder: pathlib.Path) -> None:
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    *parts, recipe = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(parts) == 3
    (folder / "my_parts.py").write_text("\n".join(parts), encoding="utf-8")
    (folder / "my_recipe.py").write_text(recipe, encoding="utf-8")


def _config():
    config = importlib.import_module("my_recipe").get_config()
    config.diffusion.steps = 10
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of the snippets, and the work directory of two steps of the recipe in it."""
    folder = tmp_path_factory.mktemp("own")
    _write_snippets(folder)
    keys = ["diffusion.steps=10", "train.batch_size=16", "train.num_steps=2"]
    keys += ["train.sample_respacing=ddim5", "train.num_samples=4"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        command = ["main.py", f"--config={folder / 'my_recipe.py'}", f"--workdir={folder / 'run'}"]
        result = run([*command, *(f"--config.{key}" for key in keys)])
    assert result.returncode == 0, result.stderr
    return folder, folder / "run"


def _as_in_a_new_process(patch, folder: pathlib.Path) -> None:
    patch.syspath_prepend(str(folder))
    patch.setattr(user_code, "_allowed", set())
    for name in ("my_parts", "my_recipe"):
        patch.delitem(sys.modules, name, raising=False)


@pytest.fixture
def directory(trained, monkeypatch):
    _as_in_a_new_process(monkeypatch, trained[0])
    return trained[1]


def test_load_finds_schedule_network_and_data_again(directory):
    model = iddpm_jax.load(str(directory), trust_code=True)
    assert repr(model).startswith("TrainedModel(SmallNetwork, ")
    parts = sys.modules["my_parts"]
    np.testing.assert_array_equal(model.betas, parts.betas(10))
    np.testing.assert_allclose(model.build_diffusion("").betas, parts.betas(10), rtol=1e-6)
    assert model.sample(3, respacing="exact3").shape == (3, 8, 8, 1)
    assert model.open_source("test").class_names == ("dark", "bright")
    assert list((directory / "samples").iterdir())


def test_load_imports_nothing_that_it_was_not_told_to_trust(directory):
    with pytest.raises(UsageError) as refused:
        iddpm_jax.load(str(directory))
    for key, name in NAMES.items():
        assert f"{key}={name!r}" in str(refused.value)
    assert "config.json names code to import and run" in str(refused.value)
    assert "trust_code=True" in str(refused.value)
    assert "my_parts" not in sys.modules


def test_load_refuses_a_schedule_that_is_no_longer_that_of_training(directory, monkeypatch):
    parts = importlib.import_module("my_parts")
    monkeypatch.setattr(parts, "betas", lambda steps: np.linspace(0.1, 0.2, steps))
    with pytest.raises(UsageError, match=r"'my_parts:betas' gives another schedule than it did"):
        iddpm_jax.load(str(directory), trust_code=True)


def test_commands_need_to_be_told_to_trust(trained, directory, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(trained[0]))
    command = ["-m", "iddpm_jax.sample", f"--workdir={directory}", f"--out={tmp_path / 'out'}"]
    result = run([*command, "--num_samples=2", "--respacing=exact3"])
    assert result.returncode == 1
    assert "model.network='my_parts:make_network'" in result.stderr
    assert "Traceback" not in result.stderr
    result = run([*command, "--num_samples=2", "--respacing=exact3", "--trust_code"])
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out" / "samples.npz").exists()


def test_build_refuses_names_that_nobody_allowed(directory):
    config = _config()
    for build in (build_model, build_diffusion, build_source):
        with pytest.raises(UsageError, match="names code to import and run: "):
            build(config)
    assert "my_parts" not in sys.modules


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:betas", "there is no module 'no_such_module' in "),
        ("my_parts:nothing", "my_parts has no function 'nothing'"),
        ("my_parts:np", "my_parts has no function 'np'"),
        ("my parts:betas", "name your own code as module:function"),
        ("my_parts:", "name your own code as module:function"),
        ("a:b:c", "name your own code as module:function"),
    ],
)
def test_find_refuses_what_is_not_there(directory, name, message):
    user_code.allow(dict.fromkeys(user_code.KEYS, name))
    with pytest.raises(UsageError, match=f"model.network={name!r}: .*{message}"):
        user_code.find("model.network", name)


def test_find_leaves_the_errors_of_the_users_code_alone(directory, tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text("import no_such_module_either\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    user_code.allow(dict.fromkeys(user_code.KEYS, "broken:make"))
    with pytest.raises(ModuleNotFoundError, match="no_such_module_either"):
        user_code.find("data.name", "broken:make")


def test_names_code_leaves_the_names_of_tfds_alone():
    assert not user_code.names_code("data.name", "tfds:mnist")
    assert not user_code.names_code("data.name", "folder")
    assert user_code.names_code("data.name", "my.parts:make")


def test_find_refuses_a_module_that_is_called_tfds(directory, tmp_path, monkeypatch):
    (tmp_path / "tfds.py").write_text("def make(): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for key in ("model.network", "data.name"):
        with pytest.raises(UsageError, match=f"names code to import and run: {key}='tfds:make'"):
            user_code.find(key, "tfds:make")
    assert "tfds" not in sys.modules
    with pytest.raises(UsageError, match=r"config\.json names code .*model\.network='tfds:make'"):
        user_code.refuse_untrusted({**NAMES, "model.network": "tfds:make"}, "config.json")


class _Network(nn.Module):
    out_channels: int = 2
    num_classes: int | None = 2
    dtype: type = jnp.float32
    sizes: tuple = ()

    @nn.compact
    def __call__(self, x, timesteps, y=None, low_res=None, train=False):
        return nn.Dense(self.out_channels)(x)

    def init_params(self, key):
        return self.init(key, np.zeros((1, 8, 8, 1), np.float32), None)["params"]


class _NoParams(nn.Module):
    num_classes: int | None = 2


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda: 3, "makes a int, expected a flax.linen.Module with a method init_params"),
        (_NoParams, "makes a _NoParams, expected"),
        (lambda: _Network(num_classes=None), "attribute num_classes has to be .* 2"),
        (lambda: _Network(dtype=jnp.float16), "attribute dtype has to be what it was given"),
        (lambda: _Network(sizes=[1]), "its attributes must be tuples, not lists"),
        (lambda: _Network(out_channels=1), r"expected float32 of shape \(2, 8, 8, 2\)"),
    ],
)
def test_build_model_refuses_networks_that_do_not_fit(directory, monkeypatch, network, message):
    config = _config()
    user_code.allow(flat_config(config))
    parts = importlib.import_module("my_parts")
    monkeypatch.setattr(parts, "make_network", lambda **options: network())
    with pytest.raises(UsageError, match=f"model.network='my_parts:make_network'.*{message}"):
        build_model(config)


def test_build_betas_refuses_what_is_no_schedule(directory, monkeypatch):
    config = _config()
    user_code.allow(flat_config(config))
    parts = importlib.import_module("my_parts")
    for given, message in (
        (np.full(9, 0.1), r"float64 of shape \(9,\), expected .* of shape \(10,\)"),
        (np.full(10, 2.0), "outside"),
        (np.full(10, "a"), "expected floating-point"),
    ):
        monkeypatch.setattr(parts, "betas", lambda steps, given=given: given)
        with pytest.raises(UsageError, match=message):
            build_diffusion(config)


def test_build_source_refuses_what_is_no_source(directory, monkeypatch):
    config = _config()
    user_code.allow(flat_config(config))
    parts = importlib.import_module("my_parts")
    monkeypatch.setattr(parts, "make_source", lambda options: [options.split])
    with pytest.raises(UsageError, match="gives a list, which has no batch, image_shape"):
        build_source(config)
