import pathlib

import pytest

from iddpm_jax import models
from iddpm_jax.config import defaults
from iddpm_jax.config.build_model import build_model
from iddpm_jax.config.recipes import packaged_recipe
from iddpm_jax.config.record import config_from_values, flat_config
from iddpm_jax.recipes import cifar10_cosine, cifar10_vlb
from iddpm_jax.torch_io.published import PUBLISHED
from iddpm_jax.torch_io.recognise import Configurations, Given, Recognised, recognise

FILE = pathlib.Path("some.pt")
# What no shape tells of the golden networks.
NOT_IN_SHAPES = {
    "model.image_size": 16,
    "model.num_heads": 4,
    "model.dropout": 0.0,
    "diffusion.steps": 1000,
    "diffusion.noise_schedule": "cosine",
    "diffusion.rescale_timesteps": True,
    "diffusion.predict_xstart": False,
    "diffusion.use_kl": False,
    "diffusion.rescale_learned_sigmas": True,
    "diffusion.sigma_small": False,
}


CONFIGURATIONS = Configurations(
    flat_config(defaults.get_config()), lambda name: flat_config(packaged_recipe(name))
)


def _recognise(arch, path=FILE, **given) -> Recognised:
    return recognise(arch, path, Given(**given), CONFIGURATIONS)


def _shapes_of(values):
    return models.torch_param_shapes(build_model(config_from_values(values)))


def _architecture(entry):
    return models.infer_architecture({k: tuple(v) for k, v in entry["params"].items()})


@pytest.fixture(scope="module")
def published(golden):
    return golden.json("published_checkpoints")


# Flags of the reference, where the key has not the same name.
KEYS = {"diffusion_steps": "diffusion.steps", "class_cond": "model.num_classes"}


def _flags(text: str) -> dict[str, str]:
    """The published flags, as configuration keys and printed values."""
    words = text.split(" (")[0].split()
    known = flat_config(cifar10_cosine.get_config())
    flags = {}
    for name, value in zip(words[::2], words[1::2], strict=True):
        name = name.removeprefix("--")
        [key] = [KEYS[name]] if name in KEYS else [k for k in known if k.endswith(f".{name}")]
        flags[key] = "1000" if name == "class_cond" else value
    return flags


def test_recognise_recognises_published_checkpoints_with_their_flags(published):
    assert published.keys() == PUBLISHED.keys()
    for name, entry in published.items():
        arch = _architecture(entry)
        found = _recognise(arch, pathlib.Path(f"dir/{name} (1).pt"))
        assert found.published == name
        values = found.values
        flags = _flags(entry["flags"])
        assert len(flags) >= 6
        for key, value in flags.items():
            shown = values[key]
            if key == "model.attention_resolutions":
                shown = ",".join(map(str, shown))
            assert str(shown) == value, (name, key)
        if "256" in entry["flags"] and "upsample" in name:
            assert (values["model.small_size"], values["model.image_size"]) == (64, 256)
        assert _shapes_of(found.values) == {
            key: tuple(shape) for key, shape in entry["params"].items()
        }


def test_recognise_lists_candidates_where_the_architecture_is_shared(published):
    shared = _architecture(published["cifar10_uncond_50M_500K"])
    with pytest.raises(ValueError, match=r"cifar10_uncond_50M_500K, cifar10_uncond_vlb_50M_500K"):
        _recognise(shared)
    found = _recognise(shared, preset="cifar10_uncond_vlb_50M_500K")
    assert found.values == flat_config(cifar10_vlb.get_config())
    # Where only one has it, the shapes suffice.
    alone = _architecture(published["upsample_cond_500K"])
    assert _recognise(alone).published == "upsample_cond_500K"


def test_recognise_takes_the_flags_of_an_own_training_of_a_published_network(published):
    arch = _architecture(published["cifar10_uncond_50M_500K"])
    own = {**NOT_IN_SHAPES, "model.image_size": 32}
    found = _recognise(arch, values=own)
    assert found.published == ""
    assert found.values["diffusion.steps"] == 1000


def test_recognise_takes_no_training_of_somebody_else_for_a_published_one(published):
    arch = _architecture(published["upsample_cond_500K"])
    with pytest.raises(ValueError, match="is none of the published"):
        _recognise(arch, pathlib.Path("model050000.pt"), own_run=True)
    with pytest.raises(ValueError, match="is none of the published"):
        _recognise(arch, pathlib.Path("cifar10_uncond_50M_500K.pt"))
    other = {"diffusion.steps": 1000}
    assert _recognise(arch, values=other).published == ""
    with_data = {"data.name": "folder", "train.lr": 1e-5}
    assert _recognise(arch, values=with_data).published == "upsample_cond_500K"


def test_recognise_refuses_a_preset_of_another_architecture(published):
    arch = _architecture(published["imagenet64_cond_270M_250K"])
    with pytest.raises(ValueError, match="contradicts") as error:
        _recognise(arch, preset="cifar10_uncond_50M_500K")
    for line in (
        "model.num_channels: the file has 192, the configuration 128",
        "model.channel_mult: the file has (1, 2, 3, 4), the configuration (1, 2, 2, 2)",
        "model.num_classes: the file has 1000, the configuration 0",
    ):
        assert line in str(error.value)


def test_recognise_infers_golden_networks(golden):
    for name, entry in golden.json("unet").items():
        if "dims" in entry["config"]:
            with pytest.raises(ValueError, match="images have 2 axes"):
                _recognise(_architecture(entry), values=NOT_IN_SHAPES)
            continue
        given = {**NOT_IN_SHAPES, "model.image_size": entry["config"]["size"]}
        given["model.num_heads"] = entry["config"].get("num_heads", 1)
        if entry["config"]["cls"] == "SuperResModel":
            given["model.small_size"] = entry["config"]["low"]
        values = _recognise(_architecture(entry), values=given).values
        assert _shapes_of(values) == {k: tuple(v) for k, v in entry["params"].items()}, name
        # And the same configuration, given whole, is accepted.
        assert _recognise(_architecture(entry), whole=values).values == values


def test_recognise_asks_by_name_for_what_shapes_do_not_tell(golden):
    networks = golden.json("unet")
    for name, also in {
        "uncond_learn_sigma": "diffusion.rescale_learned_sigmas",
        "class_cond_additive": "diffusion.sigma_small",
        "super_res": "model.small_size",
    }.items():
        arch = _architecture(networks[name])
        with pytest.raises(ValueError, match=f"--config.{also}=…"):
            _recognise(arch)
        given = dict(NOT_IN_SHAPES)
        given.pop("model.num_heads")
        with pytest.raises(ValueError, match=r"--config.model.num_heads=…"):
            _recognise(arch, values=given)


def test_recognise_names_every_contradiction(golden):
    arch = _architecture(golden.json("unet")["uncond_learn_sigma"])
    wrong = {**NOT_IN_SHAPES, "model.num_channels": 64, "model.channel_mult": (1, 2)}
    with pytest.raises(ValueError, match=r"num_channels: the file has 32, the configuration 64"):
        _recognise(arch, values=wrong)
    values = _recognise(arch, values=NOT_IN_SHAPES).values
    values["model.use_scale_shift_norm"] = False
    values["model.small_size"] = 4
    values["diffusion.learn_sigma"] = False
    with pytest.raises(ValueError, match="contradicts") as error:
        _recognise(arch, whole=values)
    assert "use_scale_shift_norm: the file has True, the configuration False" in str(error.value)
    assert "learn_sigma: the file has True" in str(error.value)
    assert "small_size: the file is no super-resolution network" in str(error.value)


def test_recognise_asks_for_the_order_of_attention(published, golden):
    unknown = {"has_attention_order": False}
    arch = _architecture(golden.json("unet")["uncond_learn_sigma"])
    with pytest.raises(ValueError, match=r"do not tell everything\. Give --attention_order=legacy"):
        _recognise(arch, values=NOT_IN_SHAPES, **unknown)
    values = _recognise(arch, values=NOT_IN_SHAPES).values
    with pytest.raises(ValueError, match="neither shapes nor the configuration tell --attention"):
        _recognise(arch, whole=values, **unknown)
    with pytest.raises(ValueError, match=r"sigmas=…; --attention_order=legacy"):
        _recognise(arch, **unknown)
    # With one head all orders are one.
    one_head = NOT_IN_SHAPES | {"model.num_heads": 1}
    assert _recognise(arch, values=one_head, **unknown).values["model.num_heads"] == 1
    # A published checkpoint's order is known; that of another run of its network is not.
    upsampler = _architecture(published["upsample_cond_500K"])
    assert _recognise(upsampler, **unknown).published
    with pytest.raises(ValueError, match="--attention_order=legacy"):
        _recognise(upsampler, values={"diffusion.steps": 1000}, **unknown)


def test_recognise_asks_for_what_the_optimizer_depends_on(golden):
    arch = _architecture(golden.json("unet")["uncond_learn_sigma"])
    with pytest.raises(ValueError, match=r"--config.train.batch_size=….*; --torch_microbatch=…"):
        _recognise(arch, values=NOT_IN_SHAPES, has_optimizer=True)
    known = {"has_optimizer": True, "has_microbatch": True}
    with pytest.raises(ValueError, match=r"--config.train.batch_size=… \(over all ranks\)$"):
        _recognise(arch, values=NOT_IN_SHAPES, **known)
    sized = NOT_IN_SHAPES | {"train.batch_size": 4}
    assert _recognise(arch, values=sized, **known).values["train.batch_size"] == 4


def test_recognise_counts_the_null_class(golden):
    arch = _architecture(golden.json("unet")["class_cond_additive"])
    values = _recognise(arch, values=NOT_IN_SHAPES).values | {"train.label_dropout": 0.1}
    with pytest.raises(ValueError, match=r"num_classes: the file has 9, the configuration 10"):
        _recognise(arch, whole=values)
    values["model.num_classes"] = 9
    assert _recognise(arch, whole=values).values == values
