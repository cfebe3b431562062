import jax.numpy as jnp
import numpy as np

from iddpm_jax import diffusion


def test_classifier_free_guidance_extrapolates_the_mean_half():
    conditional, unconditional = jnp.array([1.0, 5.0]), jnp.array([0.5, 9.0])
    for weight, mean in ((0.0, 0.5), (1.0, 1.0), (3.0, 2.0)):
        guided = diffusion.classifier_free_guidance(conditional, unconditional, weight, channels=1)
        np.testing.assert_array_equal(guided, [mean, 5.0])


def test_guided_model_fn_guides_as_many_channels_as_the_image_has():
    def model_fn(value):
        return lambda x_t, timestep: jnp.full((*x_t.shape[:-1], 4), value)

    x_t, timestep = jnp.zeros((1, 2, 2, 2)), jnp.zeros(1)
    output = diffusion.guided_model_fn(model_fn(2.0), model_fn(1.0), 3.0)(x_t, timestep)
    np.testing.assert_array_equal(output[0, 0, 0], [4.0, 4.0, 2.0, 2.0])
