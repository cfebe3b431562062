from types import SimpleNamespace

import flax.linen as nn
import jax
import ml_collections
import numpy as np
import pytest
from PIL import Image

import iddpm_jax
from iddpm_jax import diffusion
from iddpm_jax.config import defaults
from iddpm_jax.config.build_data import build_source
from iddpm_jax.config.build_diffusion import build_diffusion
from iddpm_jax.config.build_model import (
    build_model,
    follow_image_size,
    with_fast_convolutions,
)
from iddpm_jax.config.build_training import build_training
from iddpm_jax.config.check import check_config
from iddpm_jax.errors import UsageError
from iddpm_jax.models import winograd
from iddpm_jax.recipes import cifar10_cosine, digits
from tests import tiny


def _changed(changes: dict) -> ml_collections.ConfigDict:
    config = tiny.config()
    config.update_from_flattened_dict(changes)
    return config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.num_channels": 48}, r"num_channels=48.*32 groups"),
        ({"model.num_heads": 3}, r"num_heads=3 does not divide 64"),
        (
            {"model.channel_mult": (1, 1, 1, 1, 1)},
            r"image_size=8 with .*a size of 8 is too small for 5",
        ),
        ({"model.attention_resolutions": (16,)}, r"\(16,\).*never reaches 16.*\[8\]"),
        ({"model.dtype": "float64"}, r"'float64'.*bfloat16"),
        ({"model.in_channels": 5}, "in_channels=5 must be 1 to 4"),
        ({"model.in_channels": 3}, r"\(8, 8, 1\), but model.image_size=8 and model.in_channels=3"),
        ({"model.image_size": 16}, "image_size=16: digits are 8 x 8"),
        # What the data are comes before what the network makes of them.
        (
            {"model.image_size": 16, "model.attention_resolutions": (4,)},
            "image_size=16: digits are 8 x 8",
        ),
        ({"model.image_size": 0}, "image_size=0"),
        ({"model.num_classes": 5}, "labels 0 to 9, outside model.num_classes=5"),
        ({"model.num_classes": -1}, "num_classes=-1"),
        ({"model.num_res_blocks": 0}, "num_res_blocks=0"),
        ({"diffusion.noise_schedule": "linear"}, r"num_timesteps=10 has beta"),
        ({"diffusion.noise_schedule": "cos"}, "unknown noise schedule 'cos'"),
        ({"diffusion.sigma_small": True}, "sigma_small=True has no effect"),
        (
            {"diffusion.noise_schedule": "linear", "diffusion.steps": 20},
            r"beta\[19\] of 20 is 1",
        ),
        ({"data.standardize": True}, r"learn_sigma=True trains on a bound.*data.standardize=False"),
        (
            {"data.standardize": True, "diffusion.learn_sigma": False, "diffusion.use_kl": True},
            r"set diffusion.use_kl=False, or data.standardize=False",
        ),
        ({"diffusion.steps": 1}, "at least 2 timesteps, got 1"),
        ({"train.sample_respacing": "ddim7"}, "'ddim7': no integer stride over 10"),
        ({"train.batch_size": 20}, "20 is not divisible by 8 devices"),
        ({"train.microbatch": 6}, "6 does not divide train.batch_size=16"),
        ({"train.batch_size": 1600}, "1600 is more than the 1500 images"),
        ({"train.num_steps": None}, "num_steps is not set"),
        ({"train.num_steps": 0}, "num_steps=0"),
        ({"train.lr": 0.0}, "lr=0.0 must be positive"),
        ({"train.lr": float("nan")}, "lr=nan must be positive"),
        ({"train.lr": float("inf")}, "lr=inf must be positive"),
        ({"train.weight_decay": float("nan")}, "weight_decay=nan"),
        ({"train.lr_anneal_steps": 2}, "lr_anneal_steps=2.*num_steps=4"),
        ({"train.weight_decay": -0.1}, "weight_decay=-0.1"),
        ({"train.ema_rate": (1.5,)}, "1.5 is not in"),
        ({"train.schedule_sampler": "importance"}, "'importance'.*uniform"),
        ({"train.data_parallel": "ddp"}, "'ddp'"),
        (
            {"train.data_parallel": "pmap", "train.shard_optimizer": True},
            "shard_optimizer=True needs train.data_parallel='jit'",
        ),
        ({"train.low_res_noise": 0.1}, "low_res_noise=0.1 is for super-resolution"),
        ({"train.low_res_noise": -1.0, "model.small_size": 4}, "low_res_noise=-1.0 must be"),
        ({"model.small_size": 8}, "small_size=8 must be 0, or at least 1 and below"),
        ({"train.label_dropout": 1.0}, r"label_dropout=1.0 must be in"),
        ({"train.label_dropout": 0.1, "model.num_classes": 0}, "label_dropout=0.1 needs labels"),
        ({"train.seed": -1}, "seed=-1"),
        ({"train.log_every": 0}, "log_every=0"),
        ({"train.max_nonfinite_steps": 0}, "max_nonfinite_steps=0"),
        ({"train.num_samples": 0}, "num_samples=0"),
        ({"data.num_workers": -1}, "num_workers=-1"),
        ({"data.name": "mnist"}, "unknown data.name='mnist': there are digits.*'tfds:mnist'"),
        ({"data.name": "/"}, "data.name='/' is a path: .*data.name='folder' with data.dir='/'"),
        ({"data.name": ""}, "unknown data.name='': there are digits, folder, packed"),
        ({"data.split": "half"}, "data.split='half': digits have train, test, all$"),
    ],
)
def test_build_training_refuses_bad_values(changes, message):
    with pytest.raises(ValueError, match=message):
        build_training(_changed(changes))


def test_build_training_looks_at_the_network_before_it_decodes_images(tmp_path, monkeypatch):
    Image.new("L", (8, 8)).save(tmp_path / "0_a.png")
    monkeypatch.setattr(
        "iddpm_jax.config.build_training.in_memory", lambda source, cache_mb: pytest.fail("decoded")
    )
    folder = {"data.name": "folder", "data.dir": str(tmp_path), "model.num_heads": 3}
    with pytest.raises(ValueError, match="num_heads=3"):
        build_training(_changed(folder))


def test_build_training_warns_of_classes_that_nobody_has(warned):
    run = build_training(_changed({"model.num_classes": 12}))
    assert "model.num_classes=12, but the data have 10 classes" in warned.text
    described = "1,500 images, 10 classes (0, 1, 2, 3, 4, 5, 6, 7, 8, 9), 8 × 8, gray"
    assert run.data.description == described


def test_build_source_takes_a_folder_that_was_moved_and_a_split_chosen_later(tmp_path, warned):
    for i in range(40):
        Image.new("L", (8, 8), i).save(tmp_path / f"{i % 2}_{i}.png")
    config = _changed({"data.name": "folder", "data.dir": "/gone", "data.test_percent": 50.0})
    with pytest.raises(ValueError, match="'/gone' does not exist"):
        build_source(config)
    options = {"split": "test", "data_dir": str(tmp_path)}
    half, quarter = (
        build_source(config, **options, test_percent=percent) for percent in (None, 25.0)
    )
    assert 0 < len(quarter) < len(half) < 40
    assert "trained on" not in warned.text
    most = build_source(config, **options, test_percent=75.0)
    assert len(half) < len(most) < 40
    assert "more than the run's data.test_percent=50.0: images of the test split" in warned.text
    # What fewer percent hold out is among what more do.
    assert set(quarter.images[:, 0, 0, 0]) < set(half.images[:, 0, 0, 0])
    with pytest.raises(
        ValueError, match=r"test_percent=5\.0 is of folders, and data.name='digits'"
    ):
        build_source(tiny.config(), test_percent=5.0)


def test_build_diffusion_warns_of_a_learned_variance_of_x_start_that_is_respaced(caplog):
    changes = {"diffusion.predict_xstart": True}
    for config, respacing, warns in (
        (_changed(changes), "ddim5", True),
        (_changed(changes), "dp3", True),
        (_changed(changes), "", False),
        (_changed({}), "ddim5", False),
        (_changed(changes | {"diffusion.learn_sigma": False}), "ddim5", False),
    ):
        caplog.clear()
        build_diffusion(config, respacing, {3: np.array([0, 4, 9])}.get)
        assert ("far too large a variance" in caplog.text) == warns


def test_cifar10_recipe_is_the_published_network_and_says_what_is_missing():
    config = cifar10_cosine.get_config()
    check_config(config)
    model = build_model(config)
    assert model.channel_mult == (1, 2, 2, 2)
    assert model.attention_resolutions == (2, 4)
    d = build_diffusion(config)
    assert (d.num_timesteps, d.loss_type, d.var_type) == (4000, "rescaled_mse", "learned_range")
    with pytest.raises(
        ValueError, match=r"is not prepared: python -m iddpm_jax\.prepare_data cifar10"
    ):
        build_source(config)


@pytest.mark.parametrize(
    ("keys", "var_type", "loss_type", "mean_type"),
    [
        ({}, "fixed_large", "rescaled_mse", "epsilon"),
        ({"sigma_small": True}, "fixed_small", "rescaled_mse", "epsilon"),
        ({"learn_sigma": True, "use_kl": True}, "learned_range", "rescaled_kl", "epsilon"),
        ({"rescale_learned_sigmas": False}, "fixed_large", "mse", "epsilon"),
        ({"predict_xstart": True}, "fixed_large", "rescaled_mse", "x_start"),
    ],
)
def test_build_diffusion_reads_the_flags_of_the_original(keys, var_type, loss_type, mean_type):
    config = defaults.get_config()
    config.diffusion.update(keys)
    d = build_diffusion(config)
    assert (d.var_type, d.loss_type, d.mean_type) == (var_type, loss_type, mean_type)
    assert isinstance(d, diffusion.GaussianDiffusion)


@pytest.mark.parametrize(
    ("platform", "devices", "expected"),
    [
        ("cpu", 1, winograd.conv_general_dilated),
        ("cpu", 8, jax.lax.conv_general_dilated),
        ("gpu", 1, jax.lax.conv_general_dilated),
    ],
)
def test_with_fast_convolutions_takes_winograd_on_a_single_cpu_device(platform, devices, expected):
    mesh = SimpleNamespace(devices=np.array(devices * [SimpleNamespace(platform=platform)]))
    plain = build_model(tiny.config())
    model, again = (with_fast_convolutions(build_model(tiny.config()), mesh) for _ in range(2))
    assert plain.conv_general_dilated is jax.lax.conv_general_dilated
    assert model == plain.clone(conv_general_dilated=expected)
    assert (model, hash(model)) == (again, hash(again))


def test_with_fast_convolutions_leaves_those_that_a_user_has_chosen():
    def mine(*args, **options):
        return jax.lax.conv_general_dilated(*args, **options)

    for model in (build_model(tiny.config()).clone(conv_general_dilated=mine), nn.Dense(3)):
        assert with_fast_convolutions(model, tiny.mesh(1)) is model


def test_build_training_takes_fast_convolutions_on_a_single_cpu_device(monkeypatch):
    assert tiny.training().model == build_model(tiny.config())  # Eight devices.
    monkeypatch.setattr("iddpm_jax.config.build_training.make_mesh", lambda *_: tiny.mesh(1))
    model = build_training(tiny.config()).model
    assert model.conv_general_dilated is winograd.conv_general_dilated


@pytest.mark.parametrize(
    ("image_size", "expected"),
    [(8, (4,)), (16, (8,)), (32, (16,)), (7, (4,))],
)
def test_follow_image_size_scales_attention_that_is_not_reached(image_size, expected):
    config = digits.get_config()
    config.model.image_size = image_size
    follow_image_size(config, 8)
    assert config.model.attention_resolutions == expected
    assert build_model(config).attention_resolutions == (2,)


def test_follow_image_size_leaves_attention_that_is_reached():
    config = cifar10_cosine.get_config()
    config.model.image_size = 64
    follow_image_size(config, 32)
    assert config.model.attention_resolutions == (16, 8)


def test_addresses_are_refused_wherever_a_path_is_taken():
    config = digits.get_config()
    config.data.name, config.data.dir = "folder", "gs://bucket/images"
    with pytest.raises(UsageError, match=r"data.dir=gs://bucket/images: .* Mount the bucket"):
        build_source(config)
    with pytest.raises(UsageError, match=r"workdir=gs://bucket/run: .* Mount the bucket"):
        iddpm_jax.load("gs://bucket/run")
