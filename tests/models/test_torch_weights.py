import jax
import numpy as np
import pytest

from iddpm_jax import models
from tests.models.test_unet import OPTIONS, _init


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("conv_resample", [True, False])
def test_params_to_torch_and_back_is_the_identity(dims, conv_resample):
    model = models.UNet(**OPTIONS, dims=dims, conv_resample=conv_resample, num_classes=3)
    params, _, _ = _init(model)
    state_dict = models.params_to_torch(params)
    assert {name: value.shape for name, value in state_dict.items()} == (
        models.torch_param_shapes(model)
    )
    assert all(value.flags.c_contiguous for value in state_dict.values())
    back = models.params_from_torch(state_dict, model)
    assert jax.tree.structure(back) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, back, params)


def test_params_from_torch_names_every_misfit():
    model = models.UNet(**OPTIONS)
    params, _, _ = _init(model)
    state_dict = models.params_to_torch(params)
    del state_dict["out.2.bias"]
    state_dict["extra.weight"] = np.zeros(3)
    state_dict["out.0.weight"] = np.zeros(31)
    with pytest.raises(ValueError, match="do not fit the network") as error:
        models.params_from_torch(state_dict, model)
    for line in (
        "missing out.2.bias",
        "surplus 'extra.weight'",
        "out.0.weight has shape (31,), expected (32,)",
    ):
        assert line in str(error.value)
