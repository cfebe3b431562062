import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iddpm_jax import diffusion

SHAPE = (4, 3, 3, 2)


def _make(loss_type, var_type="learned_range"):
    return diffusion.make_diffusion(
        diffusion.beta_schedule("cosine", 100),
        mean_type="epsilon",
        var_type=var_type,
        loss_type=loss_type,
    )


def _inputs():
    keys = jax.random.split(jax.random.key(0), 3)
    x_start = jax.random.uniform(keys[0], SHAPE, minval=-1, maxval=1)
    output = jax.random.normal(keys[2], (*SHAPE[:-1], 2 * SHAPE[-1]))
    return x_start, jnp.array([0, 1, 50, 99]), jax.random.normal(keys[1], SHAPE), output


def test_training_losses_of_hybrid_keep_vb_away_from_the_mean():
    d = _make("rescaled_mse")
    x_start, t, noise, output = _inputs()

    def term(output, name):
        return diffusion.training_losses(d, lambda x, s: output, x_start, t, noise)[name].sum()

    grad_vb, grad_mse = (jax.grad(term)(output, name) for name in ("vb", "mse"))
    channels = SHAPE[-1]
    assert not np.any(grad_vb[..., :channels])
    assert np.all(grad_vb[..., channels:])
    assert np.all(grad_mse[..., :channels])
    assert not np.any(grad_mse[..., channels:])


@pytest.mark.parametrize("loss_type", list(diffusion.LossType))
@pytest.mark.parametrize("var_type", list(diffusion.VarType))
def test_training_loss_names_are_the_keys(loss_type, var_type):
    d = _make(loss_type, var_type)
    x_start, t, noise, output = _inputs()
    output = output if d.var_type.is_learned else output[..., : SHAPE[-1]]
    losses = diffusion.training_losses(d, lambda x, s: output, x_start, t, noise)
    assert tuple(losses) == diffusion.training_loss_names(d)


def test_training_losses_calls_the_network_once():
    calls = []

    def model_fn(x, timestep):
        calls.append(timestep)
        return output

    x_start, t, noise, output = _inputs()
    diffusion.training_losses(_make("rescaled_mse"), model_fn, x_start, t, noise)
    assert len(calls) == 1
