import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate

from iddpm_jax import models
from iddpm_jax.models import winograd
from iddpm_jax.models.layers import GroupNorm
from tests.reference import relative_error

ULPS = 16 * np.finfo(np.float32).eps


def _direct(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), [(1, 1), (1, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _random(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(3, 8, 12, 5), (6, 32, 32, 3), (1, 2, 2, 1)])
def test_convolve_equals_the_definition(shape):
    x, kernel = _random(*shape), _random(3, 3, shape[-1], 7)
    exact = [
        [
            correlate(np.pad(a.astype(float), [(1, 1), (1, 1), (0, 0)]), k, "valid")[..., 0]
            for k in np.moveaxis(kernel.astype(float), -1, 0)
        ]
        for a in x
    ]
    assert relative_error(winograd.convolve(x, kernel), np.moveaxis(exact, 1, -1)) <= ULPS


def test_convolve_has_the_gradients_of_a_convolution():
    x, kernel, dy = _random(6, 32, 16, 8), _random(3, 3, 8, 4), _random(6, 32, 16, 4)
    expected = jax.vjp(_direct, x, kernel)[1](dy)
    actual = jax.vjp(winograd.convolve, x, kernel)[1](dy)
    for a, b in zip(actual, expected, strict=True):
        assert relative_error(a, b) <= ULPS


def test_convolve_cuts_a_prime_batch_of_small_images_into_parts_of_several():
    kernel = _random(3, 3, 2, 3)
    # An image has 16 tiles, of which 1024 are transformed at a time.
    for batch, parts in ((64, 1), (67, 2), (128, 2), (131, 3)):
        program = jax.make_jaxpr(winograd.convolve)(_random(batch, 8, 8, 2), kernel)
        assert f"length={parts}" in str(program)
    x, dy = _random(67, 8, 8, 2), _random(67, 8, 8, 3)
    y, vjp = jax.vjp(winograd.convolve, x, kernel)
    expected, expected_vjp = jax.vjp(_direct, x, kernel)
    assert relative_error(y, expected) <= ULPS
    assert relative_error(vjp(dy)[0], expected_vjp(dy)[0]) <= ULPS
    padded = np.pad(x.astype(float), [(0, 0), (1, 1), (1, 1), (0, 0)])
    patches = [[padded[:, i : i + 8, j : j + 8] for j in range(3)] for i in range(3)]
    exact = np.einsum("ijbhwc,bhwo->ijco", patches, dy.astype(float))
    assert relative_error(vjp(dy)[1], exact) <= ULPS


def test_convolve_gives_an_image_the_same_bits_in_any_batch():
    x, kernel = _random(6, 32, 32, 64), _random(3, 3, 64, 64)
    convolve = jax.jit(winograd.convolve)
    np.testing.assert_array_equal(convolve(x, kernel)[4:5], convolve(x[4:5], kernel))


@pytest.mark.parametrize(
    ("x", "kernel", "expected"),
    [
        ((1, 8, 8, 64), (3, 3, 64, 64), True),
        ((1, 7, 8, 64), (3, 3, 64, 64), False),
        ((1, 4, 8, 64), (3, 3, 64, 64), False),
        ((1, 8, 8, 64), (1, 1, 64, 64), False),
        ((1, 8, 8, 3), (3, 3, 3, 64), False),
        ((1, 8, 8, 8, 64), (3, 3, 3, 64, 64), False),
    ],
)
def test_fits_takes_even_sizes_and_many_channels(x, kernel, expected):
    shapes = [jax.ShapeDtypeStruct(shape, np.float32) for shape in (x, kernel)]
    assert winograd.fits(*shapes) == expected
    assert not winograd.fits(jax.ShapeDtypeStruct(x, "bfloat16"), shapes[1])


@pytest.mark.parametrize(
    ("options", "by_winograd"),
    [
        ({"padding": 1}, True),
        ({"padding": 0}, False),
        ({"padding": "CIRCULAR"}, False),
        ({"padding": 1, "strides": 2}, False),
        ({"padding": 2, "kernel_dilation": 2}, False),
        ({"padding": 1, "input_dilation": 2}, False),
        ({"padding": 1, "precision": "highest"}, False),
        ({"padding": 1, "dtype": jnp.bfloat16}, False),
    ],
)
def test_conv_general_dilated_leaves_to_lax_what_winograd_does_not_do(options, by_winograd):
    x, kernel = _random(1, 8, 8, 64), _random(3, 3, 64, 64)

    def convolve(x, conv_general_dilated):
        layer = nn.Conv(
            64, (3, 3), use_bias=False, conv_general_dilated=conv_general_dilated, **options
        )
        return layer.apply({"params": {"kernel": kernel}}, x)

    fast = winograd.conv_general_dilated
    program = str(jax.make_jaxpr(convolve, static_argnums=1)(x, fast))
    assert ("conv_general_dilated" not in program) == by_winograd
    expected = convolve(x, jax.lax.conv_general_dilated)
    assert relative_error(convolve(x, fast), expected) <= ULPS


def test_conv_general_dilated_does_all_that_it_can_of_a_network():
    model = models.UNet(
        model_channels=64,
        out_channels=6,
        num_res_blocks=1,
        attention_resolutions=(),
        channel_mult=(1, 2),
        conv_general_dilated=winograd.conv_general_dilated,
    )
    params = models.abstract_params(model)
    x, timesteps = jnp.zeros((1, 16, 16, 3)), jnp.zeros(1)

    def convolutions(model):
        def apply(params):
            return model.apply({"params": params}, x, timesteps)

        return str(jax.make_jaxpr(apply)(params)).count("conv_general_dilated[")

    # The first and the last one, one that strides, and five of 1 × 1.
    assert convolutions(model) == 3 + 5
    plain = model.clone(conv_general_dilated=jax.lax.conv_general_dilated)
    assert convolutions(plain) == 3 + 5 + 2 * 8 + 1


def test_group_norm_is_exact_far_from_zero():
    x = 1000 + _random(2, 6, 6, 64)
    groups = x.astype(float).reshape(2, 36, 32, 2)
    centred = groups - groups.mean((1, 3), keepdims=True)
    expected = centred / np.sqrt((centred**2).mean((1, 3), keepdims=True) + 1e-5)
    params = {"scale": np.ones(64, np.float32), "bias": np.zeros(64, np.float32)}
    actual = GroupNorm().apply({"params": params}, x)
    # The inputs themselves are rounded to 6e-5 at 1000, which both sides share; the mean is not.
    np.testing.assert_allclose(actual, expected.reshape(x.shape), atol=2e-4)
