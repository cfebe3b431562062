import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iddpm_jax import models
from iddpm_jax.models import winograd
from iddpm_jax.models.layers import Upsample
from tests import tiny

OPTIONS = {
    "model_channels": 32,
    "out_channels": 2,
    "num_res_blocks": 1,
    "attention_resolutions": (2,),
    "channel_mult": (1, 2),
    "in_channels": 1,
}


def _init(model, size=4):
    x = jnp.ones((2, *(size,) * model.dims, model.in_channels))
    labels = jnp.zeros(2, jnp.int32) if model.num_classes else None
    return tiny.random_params(model, scale=0.1, seed=0), x, labels


def test_unet_starts_as_the_zero_function():
    model = models.UNet(**OPTIONS)
    x = jnp.ones((2, 4, 4, 1))
    params = jax.jit(model.init)(jax.random.key(0), x, jnp.zeros(2))["params"]
    out = jax.jit(model.apply)({"params": params}, x, jnp.array([0.0, 10.0]))
    np.testing.assert_array_equal(out, np.zeros((2, 4, 4, 2)))
    kernel = params["down_1_res"]["in_conv"]["kernel"]
    bound = 1 / np.sqrt(9 * 32)
    assert 0.95 * bound < np.abs(kernel).max() <= bound
    assert kernel.dtype == np.float32


def test_unet_with_checkpointing_has_the_same_gradients():
    gradients = []
    for use_checkpoint in (False, True):
        model = models.UNet(**OPTIONS, use_checkpoint=use_checkpoint)
        params, x, _ = _init(model)

        def loss(params, model=model, x=x):
            return jnp.square(model.apply({"params": params}, x, jnp.arange(2.0))).sum()

        gradients.append(jax.jit(jax.grad(loss))(params))
    plain, checkpointed = (
        np.concatenate([g.ravel() for g in jax.tree.leaves(grads)]) for grads in gradients
    )
    np.testing.assert_allclose(plain, checkpointed, rtol=1e-4, atol=1e-5 * np.abs(plain).max())


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_unet_computes_in_half_precision_with_float32_parameters(dtype):
    params, x, _ = _init(models.UNet(**OPTIONS))
    expected = jax.jit(models.UNet(**OPTIONS).apply)({"params": params}, x, jnp.arange(2.0))
    model = models.UNet(**OPTIONS, dtype=dtype)
    apply = jax.jit(functools.partial(model.apply, return_features=True))
    out, features = apply({"params": params}, x, jnp.arange(2.0))
    assert {leaf.dtype for leaf in jax.tree.leaves(models.abstract_params(model))} == {
        np.dtype(np.float32)
    }
    assert out.dtype == features["middle"].dtype == np.float32
    assert 0 < np.abs(out - expected).max() < 0.05 * np.abs(expected).max()


def test_unet_dropout_acts_in_training_only():
    model = models.UNet(**OPTIONS, dropout=0.5)
    params, x, _ = _init(model)

    @functools.partial(jax.jit, static_argnums=0)
    def apply(train, seed=0):
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply({"params": params}, x, jnp.arange(2.0), train=train, rngs=rngs)

    np.testing.assert_array_equal(apply(False, 0), apply(False, 1))
    assert np.abs(apply(True, 0) - apply(True, 1)).max() > 1e-3


def test_unet_returns_every_feature():
    params, x, _ = _init(models.UNet(**OPTIONS))
    apply = functools.partial(models.UNet(**OPTIONS).apply, return_features=True)
    _, features = jax.eval_shape(apply, {"params": params}, x, jnp.arange(2.0))
    assert [h.shape for h in features["down"]] == [
        (2, 4, 4, 32),
        (2, 4, 4, 32),
        (2, 2, 2, 32),
        (2, 2, 2, 64),
    ]
    assert features["middle"].shape == (2, 2, 2, 64)
    assert [h.shape[1:] for h in features["up"]] == [
        (2, 2, 64),
        (4, 4, 64),
        (4, 4, 32),
        (4, 4, 32),
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_channels": 48}, r"num_channels=48 times channel_mult=1 gives 48.*32 groups"),
        ({"num_heads": 5}, r"num_heads=5 does not divide 64 channels"),
        ({"num_heads_upsample": 7}, r"num_heads_upsample=7 does not divide 64"),
        ({"attention_resolutions": (8,)}, r"\[8\] is never reached.*\[1, 2\]"),
        ({"channel_mult": ()}, "channel_mult is empty"),
        ({"dims": 4}, "dims=4"),
        ({"dropout": 1.0}, r"dropout=1.0 must be in \[0, 1\)"),
    ],
)
def test_unet_refuses_what_cannot_be_built(change, message):
    with pytest.raises(ValueError, match=message):
        models.UNet(**(OPTIONS | change))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "inputs", "message"),
    [
        ({"conv_resample": False}, {"x": (2, 5, 5, 1)}, r"maps of \[5\].*by pooling"),
        ({}, {"x": (2, 1, 1, 1)}, "a size of 1 is too small for 2 resolutions"),
        ({}, {"x": (2, 4, 1)}, "does not have 2 spatial axes"),
        ({}, {"x": (2, 4, 4, 3)}, r"\(2, 4, 4, 3\) does not have 1 channels"),
        ({}, {"y": (2,)}, "num_classes=None, but labels y were given"),
        ({"num_classes": 3}, {}, "num_classes=3, but labels y were not given"),
        ({"num_classes": 3}, {"y": (1,)}, r"y has shape \(1,\), expected \(2,\)"),
        ({}, {"timesteps": (3,)}, r"timesteps has shape \(3,\), expected \(2,\)"),
        ({}, {"low_res": (2, 2, 2, 1)}, "takes no low_res"),
    ],
)
def test_unet_refuses_inputs_that_do_not_fit(options, inputs, message):
    shapes = {"x": (2, 4, 4, 1), "timesteps": (2,)} | inputs
    arrays = {
        name: jnp.zeros(shape, jnp.int32 if name == "y" else jnp.float32)
        for name, shape in shapes.items()
    }
    with pytest.raises(ValueError, match=message):
        models.UNet(**(OPTIONS | options)).init(jax.random.key(0), **arrays)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("low_res", "message"),
    [(None, "needs a low_res"), ((1, 2, 2, 1), "does not fit"), ((2, 2, 2, 3), "does not fit")],
)
def test_super_res_unet_refuses_low_res_that_does_not_fit(low_res, message):
    low_res = None if low_res is None else jnp.zeros(low_res)
    x = jnp.zeros((2, 4, 4, 1))
    with pytest.raises(ValueError, match=message):
        models.SuperResUNet(**OPTIONS).init(jax.random.key(0), x, jnp.zeros(2), low_res=low_res)


def test_unet_has_derivatives_in_forward_mode():
    model = models.UNet(**{**OPTIONS, "model_channels": 64})
    params, x, _ = _init(model, size=8)

    def lower(model):
        """Traces the derivative as far as to where it would be compiled."""

        def apply(x):
            return model.apply({"params": params}, x, jnp.zeros(2))

        return jax.jit(lambda x: jax.jvp(apply, (x,), (x,))[1]).lower(x)

    assert lower(model).out_info.shape == (2, 8, 8, 2)
    with pytest.raises(TypeError, match="forward-mode"):
        lower(model.clone(conv_general_dilated=winograd.conv_general_dilated))


@pytest.mark.parametrize("size", [5, 7, 14])
def test_unet_comes_back_to_odd_sizes(size):
    model = models.UNet(**{**OPTIONS, "channel_mult": (1, 1, 1)})
    params = tiny.random_params(model, scale=0.1, seed=0)
    x = jnp.ones((1, size, size, 1))
    apply = jax.jit(functools.partial(model.apply, return_features=True))
    output, features = apply({"params": params}, x, jnp.zeros(1))
    assert output.shape[1:3] == (size, size)
    sizes = models.feature_sizes(size, 3, conv_resample=True)
    assert features["middle"].shape[1] == sizes[-1] == -(-size // 4)
    assert [f.shape[1] for f in features["up"]][-1] == size


def test_upsample_to_an_odd_size_is_nearest_neighbour_interpolation():
    x = jnp.arange(4.0).reshape(1, 4, 1, 1).repeat(4, axis=2)
    up = Upsample(use_conv=False, dtype=jnp.float32).apply({}, x, (1, 7, 7, 1))
    np.testing.assert_array_equal(up[0, :, 0, 0], np.arange(7) * 4 // 7)


def test_feature_sizes_halve_and_round_up():
    assert models.feature_sizes(14, 3, True) == [14, 7, 4]
    assert models.feature_sizes(32, 4, False) == [32, 16, 8, 4]
