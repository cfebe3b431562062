"""A trained model in this process, without training one."""

import dataclasses
import inspect
import subprocess
import sys

import jax
import numpy as np
import pytest

import iddpm_jax
from iddpm_jax import diffusion, models, trained
from iddpm_jax.cli import compilation_cache
from iddpm_jax.data.standardization import UNCHANGED
from iddpm_jax.errors import UsageError
from tests import tiny
from tests.sampling.test_generator import CLASSES, _generator, _network
from tests.sampling.test_previews import Enlarging


def trained_model():
    """A model of the network of the generator's tests, on all devices."""
    network, params = _network()
    return trained.TrainedModel(
        model=network,
        fast_model=network,
        params=params,
        image_shape=(4, 4, 1),
        low_res=None,
        num_classes=CLASSES,
        null_label=CLASSES,
        class_names=("a", "b", "c"),
        step=1234,
        ema="0.9",
        betas=diffusion.beta_schedule("cosine", 100),
        standardization=UNCHANGED,
        build_diffusion=lambda respacing: _generator().d,
        open_source=lambda split: None,
    )


@pytest.fixture(scope="module")
def model():
    return trained_model()


def test_sample_takes_the_models_own_sampler(model):
    continuous = dataclasses.replace(model, betas=None)
    for one, sampler in ((model, "ddpm"), (continuous, "ddim")):
        by_default = one.sample(2)
        np.testing.assert_array_equal(by_default, one.sample(2, sampler=sampler))
    assert (by_default != model.sample(2)).any()


def test_identity_is_of_parameters_schedule_step_and_average(model):
    identity = model.identity()
    assert identity == model.identity() | {"step": 1234, "ema": "0.9"}
    changed = jax.tree.map(np.array, model.params)
    jax.tree.leaves(changed)[-1].ravel()[0] += 1
    for other in ({"params": changed}, {"betas": model.betas * 0.5}):
        changed_identity = dataclasses.replace(model, **other).identity()
        assert changed_identity["model"] != identity["model"]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": 3}, r"labels=3: give a list of class numbers, such as \[0, 1\]"),
        ({"labels": []}, r"labels=\[\]: give a list"),
        ({"labels": "12"}, "labels='12': give a list"),
        ({"labels": [0.5]}, r"labels=\[0.5\]: give a list"),
        ({"labels": np.zeros((2, 2), int)}, "give a list"),
        ({"labels": [2**40]}, r"labels \[1099511627776\] are outside the model's 3 classes"),
        ({"seed": -1}, r"seed=-1 must be a whole number, 0 to 2\*\*32 - 1"),
        ({"seed": 2**32}, "seed=4294967296 must be"),
        ({"seed": 0.5}, "seed=0.5 must be"),
        ({"num": 0}, "num=0 must be a whole number, 1 to"),
        ({"num": "2"}, "num='2' must be"),
        ({"batch_size": 0}, "batch_size=0 must be"),
        ({"batch_size": 1.5}, "batch_size=1.5 must be"),
    ],
)
def test_sample_refuses_what_cannot_be(model, options, message):
    with pytest.raises(UsageError, match=message):
        model.sample(**{"num": 1, **options})


def test_sample_compiles_nothing_the_second_time(model):
    options = {"labels": [0, 2], "guidance": 3.0, "seed": 5}
    first = model.sample(3, **options)
    with tiny.compilations() as compilations:
        np.testing.assert_array_equal(first, model.sample(3, **options))
        model.sample(3, labels=[1, 2], guidance=2.0, seed=6)
    assert compilations == []


def test_super_resolve_compiles_nothing_the_second_time(model):
    types = {"mean_type": "x_start", "var_type": "fixed_large", "loss_type": "mse"}
    d = diffusion.make_diffusion(diffusion.beta_schedule("cosine", 4), **types)
    enlarging = dataclasses.replace(
        model,
        model=Enlarging(),
        fast_model=Enlarging(),
        params=np.float32(1),
        image_shape=(8, 8, 1),
        low_res=models.LowRes(4, noise=0.1),
        num_classes=0,
        null_label=None,
        build_diffusion=lambda respacing: d,
    )
    small = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 1)).astype(np.uint8)
    first = enlarging.super_resolve(small)
    with tiny.compilations() as compilations:
        np.testing.assert_array_equal(first, enlarging.super_resolve(small))
    assert compilations == []


def test_trained_model_is_shown_in_a_line(model):
    assert repr(model) == (
        "TrainedModel(UNet of 32 × (1,) channels, 183,618 parameters, images 4 × 4 × 1, 3 classes, "
        "step 1,234, EMA 0.9, process of 100 steps)"
    )


def test_trained_model_is_the_same_as_itself_alone(model):
    other = dataclasses.replace(model)
    assert model == model
    assert model != other
    assert len({model, other, model}) == 2


def test_enable_leaves_the_cache_that_jax_was_told(tmp_path):
    keys = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {key: getattr(jax.config, key) for key in keys}
    try:
        compilation_cache.enable(tmp_path)
        assert jax.config.jax_compilation_cache_dir == before["jax_compilation_cache_dir"]
        jax.config.update("jax_compilation_cache_dir", None)
        compilation_cache.enable(tmp_path)
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / ".jax_cache")
    finally:
        for key, value in before.items():
            jax.config.update(key, value)


def test_package_imports_jax_when_it_is_needed():
    program = (
        "import sys, iddpm_jax; assert 'jax' not in sys.modules; "
        "iddpm_jax.diffusion.beta_schedule('linear', 100); iddpm_jax.models.UNet; "
        "assert 'iddpm_jax.trained' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_package_says_what_it_has():
    assert iddpm_jax.UsageError is UsageError
    assert iddpm_jax.load is trained.load
    assert inspect.signature(iddpm_jax.load).return_annotation is iddpm_jax.TrainedModel
    assert {"load", "diffusion", "models", "TrainedModel"} <= set(dir(iddpm_jax))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = iddpm_jax.nothing


def test_diffusion_exports_what_an_own_sampler_needs():
    assert {"extract", "mean_flat"} <= set(diffusion.__all__)
    np.testing.assert_array_equal(diffusion.mean_flat(np.ones((2, 3, 3))), [1, 1])
