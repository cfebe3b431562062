import dataclasses

import pytest

from iddpm_jax import models
from iddpm_jax.config import defaults
from iddpm_jax.config.check import check_values
from iddpm_jax.config.record import flat_config
from iddpm_jax.errors import UsageError
from iddpm_jax.torch_io import reference_flags
from iddpm_jax.torch_io.reference_flags import ReferenceFlags, merge

# What improved-diffusion's create_argparser starts from.
REFERENCE = {
    "model.image_size": 64,
    "model.small_size": 0,
    "model.num_channels": 128,
    "model.num_res_blocks": 2,
    "model.num_heads": 4,
    "model.num_heads_upsample": -1,
    "model.attention_resolutions": (16, 8),
    "model.dropout": 0.0,
    "model.use_checkpoint": False,
    "model.use_scale_shift_norm": True,
    "diffusion.learn_sigma": False,
    "diffusion.sigma_small": False,
    "diffusion.steps": 1000,
    "diffusion.noise_schedule": "linear",
    "diffusion.use_kl": False,
    "diffusion.predict_xstart": False,
    "diffusion.rescale_timesteps": True,
    "diffusion.rescale_learned_sigmas": True,
}
ARCH = models.Architecture(
    dims=2,
    model_channels=128,
    input_channels=3,
    output_channels=6,
    num_res_blocks=3,
    channel_mult=(1, 2, 2, 2),
    attention_resolutions=(2, 4),
    num_classes=None,
    use_scale_shift_norm=True,
    conv_resample=True,
)
SUPER = dataclasses.replace(ARCH, input_channels=6, channel_mult=(1, 1, 2, 2, 4, 4))


DEFAULTS = flat_config(defaults.get_config())


def parse(text, arch):
    return reference_flags.parse(text, arch, DEFAULTS)


def test_parse_gives_the_references_defaults():
    found = parse("", ARCH)
    assert found.values == REFERENCE
    assert (found.given, found.batch_size, found.microbatch) == ({}, None, None)
    found = parse("", SUPER)
    sizes = {"model.image_size": 256, "model.small_size": 64}
    assert found.values == REFERENCE | sizes
    # Those of training are our configuration's.
    for key, value in {
        "train.lr": 1e-4,
        "train.weight_decay": 0.0,
        "train.lr_anneal_steps": 0,
        "train.ema_rate": (0.9999,),
        "train.schedule_sampler": "uniform",
    }.items():
        assert DEFAULTS[key] == value


def test_parse_reads_both_ways_of_writing_flags():
    found = parse(
        "--image_size 32 --num_channels=96 --learn_sigma True --use_kl=f --dropout .3 "
        "--diffusion_steps 4000 --noise_schedule cosine --attention_resolutions 16,8,3 "
        "--lr 2e-4 --batch_size 16 --microbatch -1 --ema_rate 0.9,0.99 --use_fp16 yes "
        "--data_dir 'my images' --log_interval 7 --sigma_small 1",
        ARCH,
    )
    expected = {
        "model.image_size": 32,
        "model.num_channels": 96,
        "model.dropout": 0.3,
        "model.attention_resolutions": (16, 8),  # The network never reaches 3.
        "model.dtype": "float16",
        "diffusion.learn_sigma": True,
        "diffusion.sigma_small": True,
        "diffusion.steps": 4000,
        "diffusion.noise_schedule": "cosine",
        "train.lr": 2e-4,
        "train.batch_size": 16,
        "train.ema_rate": (0.9, 0.99),
        "train.log_every": 7,
        "data.name": "folder",
        "data.dir": "my images",
    }
    assert found.values == REFERENCE | expected
    assert (found.batch_size, found.microbatch) == (16, -1)
    assert "train.lr" in found.given
    assert "model.num_heads" not in found.given
    check_values(DEFAULTS | found.values)


def test_parse_reads_a_super_resolution_run():
    found = parse("--large_size 64 --small_size 16 --sigma_small True", SUPER)
    assert found.values["model.image_size"] == 64
    assert found.values["model.small_size"] == 16
    assert not found.values["diffusion.sigma_small"]  # The reference drops it there.
    both = dataclasses.replace(ARCH, input_channels=2, output_channels=2)
    assert parse("--small_size 16", both).values["model.small_size"] == 16
    assert parse("--image_size 16", both).values["model.small_size"] == 0


def test_parse_says_what_has_no_effect():
    found = parse("--timestep_respacing ddim50 --fp16_scale_growth 1e-3", ARCH)
    assert found.values == REFERENCE
    assert "--timestep_respacing is of sampling" in found.notes[0]


@pytest.mark.parametrize(
    ("text", "message"),
    {
        "--num_chanels 3": "has no flag --num_chanels; did you mean --num_channels",
        "--num_channels": "--num_channels has no value",
        "--num_channels --lr 1": "--num_channels has no value",
        "--num_channels many": "--num_channels 'many' should be a whole number",
        "--lr fast": "'fast' should be a number",
        "--learn_sigma perhaps": "'perhaps' should be True or False",
        "--attention_resolutions 16,": "should be numbers with commas",
        "--attention_resolutions 16,0": "should be numbers with commas",
        "num_channels 3": "'num_channels' is no flag",
        "--num_channels '3": "No closing quotation",
        "--class_cond True": "class_cond is True, but the file has no classes",
        "--small_size 16": "the file is no super-resolution model",
        "--use_new_attention_order True": "is a flag of guided-diffusion",
        "--model_path x.pt": "improved-diffusion has no flag --model_path",
    }.items(),
)
def test_parse_names_what_it_cannot_read(text, message):
    with pytest.raises(UsageError, match=message):
        parse(text, ARCH)


def test_parse_compares_classes_with_the_file():
    arch = dataclasses.replace(ARCH, num_classes=10)
    assert "model.num_classes" not in parse("--class_cond True", arch).values  # Shapes tell it.
    with pytest.raises(UsageError, match="class_cond is False, but the file has 10 classes"):
        parse("", arch)


def test_merge_refuses_what_contradicts_a_given_flag():
    found = parse("--num_heads 2 --batch_size 8", ARCH)
    with pytest.raises(UsageError, match=r"has --num_heads 2, but --config.model.num_heads=4"):
        merge(found, {"model.num_heads": 4})
    # What is not given has a default, and the batch size of the flags is one rank's.
    merged = merge(found, {"model.dropout": 0.1, "train.batch_size": 64})
    assert merged["model.dropout"] == 0.1
    assert merged["train.batch_size"] == 64
    assert merge(found, {"model.num_heads": 2})["model.num_heads"] == 2
    assert merge(ReferenceFlags({}, {}), {"train.lr": 1.0}) == {"train.lr": 1.0}
