import jax
import numpy as np
import pytest

from iddpm_jax import diffusion

TYPES = {"mean_type": "epsilon", "var_type": "learned_range", "loss_type": "mse"}


def test_make_diffusion_is_a_pytree_of_float32_tables():
    d = diffusion.make_diffusion(diffusion.beta_schedule("linear", 50), **TYPES)
    leaves = jax.tree.leaves(d)
    assert {leaf.shape for leaf in leaves} == {(50,)}
    assert {leaf.dtype for leaf in leaves} == {np.dtype(np.float32)}
    assert all(np.isfinite(leaf).all() for leaf in leaves)
    assert jax.tree.map(lambda x: x, d).mean_type is diffusion.MeanType.EPSILON


def test_make_diffusion_scales_timesteps_once():
    betas = diffusion.beta_schedule("cosine", 4000)
    d = diffusion.make_diffusion(
        betas, **TYPES, rescale_timesteps=True, keep_timesteps=np.array([0, 1000, 3999])
    )
    timesteps = diffusion.model_timestep(d, np.array([0, 1, 2]))
    np.testing.assert_array_equal(timesteps, np.float32([0, 250, 999.75]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean_type": "eps"}, r"MeanType 'eps'.*epsilon, x_start, x_prev"),
        ({"var_type": "fixed"}, r"VarType 'fixed'.*learned_range"),
        ({"loss_type": "l2"}, r"LossType 'l2'.*rescaled_kl"),
        ({"keep_timesteps": np.array([0])}, r"at least 2 timesteps, got 1 \(of 50\)"),
        ({"keep_timesteps": np.array([0, 50])}, r"has 50, but the schedule has 50"),
        ({"keep_timesteps": np.array([3, 3])}, r"sorted and distinct"),
        ({"betas": np.array([0.5, 1.5])}, r"beta\[1\] = 1.5"),
        ({"betas": np.array([0.0, 0.5])}, r"beta\[0\] = 0"),
        ({"betas": np.array([0.1])}, r"at least 2 timesteps"),
        ({"betas": np.array([0.5, 1.0])}, r"beta\[1\] of 2 is 1"),
        ({"betas": np.zeros((2, 2))}, r"vector, got shape \(2, 2\)"),
    ],
)
def test_make_diffusion_refuses_bad_input(change, message):
    arguments = {"betas": diffusion.beta_schedule("linear", 50), **TYPES} | change
    with pytest.raises(ValueError, match=message):
        diffusion.make_diffusion(arguments.pop("betas"), **arguments)


def test_p_mean_variance_refuses_wrong_channels():
    d = diffusion.make_diffusion(diffusion.beta_schedule("linear", 50), **TYPES)
    x, t = np.zeros((2, 4, 4, 3), np.float32), np.array([0, 1])
    with pytest.raises(ValueError, match=r"\(2, 4, 4, 3\).*needs \(2, 4, 4, 6\)"):
        diffusion.p_mean_variance(d, lambda x, timestep: x, x, t)


def test_p_mean_variance_applies_denoised_fn_before_clipping():
    d = diffusion.make_diffusion(
        diffusion.beta_schedule("linear", 50), **(TYPES | {"var_type": "fixed_small"})
    )
    x, t = np.full((1, 2, 2, 1), 0.5, np.float32), np.array([10])
    p = diffusion.p_mean_variance(d, lambda x, _: 0 * x, x, t, denoised_fn=lambda x0: x0 + 100)
    np.testing.assert_array_equal(p.pred_xstart, np.ones_like(x))
