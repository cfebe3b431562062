import jax.numpy as jnp
import numpy as np

from iddpm_jax.data.pixels import to_float, to_uint8

LEVELS = np.arange(256, dtype=np.uint8)


def test_to_float_is_the_references_scaling_to_the_last_bit():
    expected = LEVELS.astype(np.float32) / np.float32(127.5) - np.float32(1)
    np.testing.assert_array_equal(to_float(LEVELS), expected, strict=True)
    # XLA multiplies by the reciprocal of 127.5.
    on_device = to_float(jnp.asarray(LEVELS))
    assert isinstance(on_device, jnp.ndarray)
    np.testing.assert_allclose(on_device, expected, rtol=0, atol=2**-23)


def test_to_uint8_cuts_off_as_the_reference():
    x = jnp.array([-2.0, -1.0, -0.999, 0.0, 0.5, 0.9999, 1.0, 3.0])
    np.testing.assert_array_equal(to_uint8(x), [0, 0, 0, 127, 191, 254, 255, 255])


def test_to_uint8_inverts_the_scaling_of_data():
    back = np.asarray(to_uint8(to_float(jnp.asarray(LEVELS))), np.int32)
    assert np.abs(back - LEVELS).max() <= 1
