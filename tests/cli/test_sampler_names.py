from iddpm_jax import diffusion
from iddpm_jax.cli.sampler_names import sampler_names


def test_sampler_names_are_those_of_the_table():
    assert sampler_names() == list(diffusion.SAMPLERS)
