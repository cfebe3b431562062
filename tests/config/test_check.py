import pytest

from iddpm_jax.config.check import check_config
from iddpm_jax.recipes import digits
from tests import tiny


def test_check_config_names_an_unknown_key():
    config = digits.get_config()
    with config.unlocked():
        config.train.nmu_steps = 3
    with pytest.raises(ValueError, match=r"'train.nmu_steps': did you mean train.num_steps"):
        check_config(config)


def test_check_config_names_a_missing_key():
    config = digits.get_config()
    with config.unlocked():
        del config.train.lr
    with pytest.raises(ValueError, match=r"lacks train\.lr"):
        check_config(config)


def test_check_config_names_a_mistyped_value():
    config = digits.get_config()
    with config.ignore_type():
        config.model.num_channels = "64"
    with pytest.raises(ValueError, match=r"num_channels='64' is of type str, expected int"):
        check_config(config)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model.channel_mult", (1.0,), r"1.0 is of type float, expected int"),
        ("model.attention_resolutions", ("8",), r"'8' is of type str, expected int"),
        ("train.ema_rate", (True,), r"True is of type bool, expected float"),
    ],
)
def test_check_config_looks_into_tuples(key, value, message):
    config = tiny.config()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(ValueError, match=message):
        check_config(config)
