import inspect
import json
import re

import pytest

from iddpm_jax.config import defaults
from iddpm_jax.config.record import MAY_CHANGE, config_from_dict, config_from_values, flat_config
from iddpm_jax.recipes import cifar10_cosine, digits


def test_config_from_values_is_the_inverse_of_flat_config():
    config = digits.get_config()
    assert config_from_values(flat_config(config)) == config
    with pytest.raises(ValueError, match=r"the configuration lacks model\.dropout"):
        config_from_values({k: v for k, v in flat_config(config).items() if k != "model.dropout"})


def test_config_from_dict_is_the_inverse_of_a_record_and_refuses_another_versions():
    config = cifar10_cosine.get_config()
    values = json.loads(json.dumps(config.to_dict()))
    assert config_from_dict(values) == config
    values["model"]["new_key"] = 1
    with pytest.raises(ValueError, match=r"of another version .*: unknown .*model\.new_key"):
        config_from_dict(values)
    del values["model"]["new_key"], values["data"]["labels"]
    with pytest.raises(ValueError, match=r"of another version .*: .* lacks data\.labels"):
        config_from_dict(values)


def test_may_change_is_what_the_defaults_say():
    source = inspect.getsource(defaults)
    below = source[source.index("# The keys below, and num_steps, may change") :]
    below = below[: below.index("return train")]
    train = {f"train.{key}" for key in re.findall(r"^    train\.(\w+) =", below, re.MULTILINE)}
    data = set(re.findall(r"how it is read: (.*)\.", below)[0].split(", "))
    expected = train | {"train.num_steps"} | {f"data.{key}" for key in data}
    assert expected == MAY_CHANGE
    assert "train.data_parallel" not in MAY_CHANGE  # Dropout would be another.
