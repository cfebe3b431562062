import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import flops
from iddpm_jax import models
from iddpm_jax.config.build_model import build_model
from iddpm_jax.models import winograd
from iddpm_jax.recipes import cifar10_cosine


def _program(function, *shapes):
    arguments = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
    return jax.jit(function).lower(*arguments).compile().as_text()


def test_in_program_counts_products_of_every_kind():
    assert flops.in_program(_program(jnp.matmul, (64, 32), (32, 128))) == 2 * 64 * 32 * 128

    def strided(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (2, 2), [(1, 1), (1, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    shapes = (4, 16, 16, 32), (3, 3, 32, 64)
    forward = 2 * (4 * 8 * 8 * 64) * (3 * 3 * 32)
    assert flops.in_program(_program(strided, *shapes)) == forward
    gradients = jax.grad(lambda x, kernel: jnp.square(strided(x, kernel)).sum(), argnums=(0, 1))
    assert flops.in_program(_program(gradients, *shapes)) == 3 * forward


def test_in_program_counts_loops_as_often_as_they_run():
    def powers(x):
        return jax.lax.scan(lambda y, _: (x @ y, None), x, length=7)[0]

    assert flops.in_program(_program(powers, (64, 64))) == 7 * 2 * 64**3


def test_winograd_multiplies_four_ninths():
    program = _program(winograd.convolve, (8, 32, 32, 64), (3, 3, 64, 64))
    assert flops.in_program(program) * 9 / 4 == 2 * (8 * 32 * 32 * 64) * (9 * 64)


def test_of_network_equals_a_count_by_hand():
    model = models.UNet(
        model_channels=32,
        out_channels=3,
        num_res_blocks=1,
        attention_resolutions=(),
        channel_mult=(1,),
    )
    pixels, embedding = 8 * 8, 128

    def block(channels):
        skip = channels * 32 if channels != 32 else 0
        return pixels * (9 * channels * 32 + 9 * 32 * 32 + skip) + embedding * 32

    by_hand = pixels * 9 * (3 * 32 + 32 * 3)  # The first and the last convolution.
    by_hand += 32 * embedding + embedding * embedding  # The timestep's embedding.
    by_hand += 3 * block(32) + 2 * block(64)  # Down, twice in the middle, twice up.
    by_hand += pixels * (32 * 96 + 32 * 32) + 2 * pixels**2 * 32  # Attention in the middle.
    assert flops.of_network(model, 8) == 2 * by_hand


def test_of_network_of_the_published_cifar10_model():
    model = build_model(cifar10_cosine.get_config())
    assert flops.of_network(model, 32) == pytest.approx(16.77e9, rel=1e-3)
