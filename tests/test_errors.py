import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iddpm_jax.errors import UsageError, explain_out_of_memory


def test_explain_out_of_memory_gives_sizes_and_what_helps():
    with (
        pytest.raises(UsageError) as raised,
        explain_out_of_memory("a smaller --batch_size needs less"),
    ):
        jax.block_until_ready(jnp.zeros(2**46, jnp.int8))
    message = str(raised.value)
    assert "65,536.0 GiB" in message
    assert message.endswith("): a smaller --batch_size needs less")
    assert "\n" not in message
    assert isinstance(raised.value.__cause__, jax.errors.JaxRuntimeError)


def test_explain_out_of_memory_shortens_what_accelerators_say():
    table = "\n".join(f"buffer {i}: 2.00G" for i in range(1000))
    error = jax.errors.JaxRuntimeError(
        "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8589934592 bytes.\n" + table
    )
    with pytest.raises(UsageError) as raised, explain_out_of_memory("help"):
        raise error
    message = str(raised.value)
    assert message.startswith("out of memory (Out of memory while trying to allocate 8.0 GiB")
    assert len(message) < 300


def test_explain_out_of_memory_knows_that_of_the_host():
    with pytest.raises(UsageError, match=r"64\.0 TiB.*: help"), explain_out_of_memory("help"):
        np.zeros(2**46, np.int8)


@pytest.mark.parametrize(
    "error", [ValueError("no"), jax.errors.JaxRuntimeError("INTERNAL: a bug of 9999999 bytes")]
)
def test_explain_out_of_memory_leaves_other_errors_alone(error):
    with pytest.raises(type(error)) as raised, explain_out_of_memory("help"):
        raise error
    assert raised.value is error
