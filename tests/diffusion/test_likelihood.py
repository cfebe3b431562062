import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iddpm_jax import diffusion
from iddpm_jax.diffusion.likelihood import approx_standard_normal_cdf


def test_bpd_loop_of_the_true_posterior_is_prior_and_decoder():
    # All images are one constant, so the best network predicts the noise exactly, every KL
    # term is 0 with the posterior's variance, and what remains is prior and decoder.
    d = diffusion.make_diffusion(
        diffusion.beta_schedule("linear", 200),
        mean_type="x_start",
        var_type="fixed_small",
        loss_type="kl",
    )
    x_start = jnp.full((3, 4, 4, 1), 2 * 77 / 255 - 1)
    result = diffusion.bpd_loop(
        d, lambda x, t: jnp.full_like(x, x_start[0, 0, 0, 0]), x_start, jax.random.key(0)
    )
    np.testing.assert_allclose(result["vb"][:, :-1], 0, atol=1e-6)
    np.testing.assert_allclose(result["xstart_mse"], 0, atol=1e-12)
    # KL(N(√ᾱ x_0, 1 - ᾱ) || N(0, 1)) in closed form, in float64.
    alpha_bar = np.cumprod(1 - diffusion.beta_schedule("linear", 200))[-1]
    variance, mean = 1 - alpha_bar, np.sqrt(alpha_bar) * float(x_start[0, 0, 0, 0])
    prior = 0.5 * (variance + mean**2 - 1 - np.log(variance)) / np.log(2)
    np.testing.assert_allclose(result["prior_bpd"], prior, rtol=0.05)
    decoder = result["vb"][:, -1]
    assert np.all(decoder >= 0)
    np.testing.assert_allclose(result["total_bpd"], decoder + prior, rtol=1e-5)


def test_bpd_loop_gives_each_image_its_own_noise_whatever_the_batch():
    d = diffusion.make_diffusion(
        diffusion.beta_schedule("cosine", 20),
        mean_type="epsilon",
        var_type="fixed_large",
        loss_type="kl",
    )
    x_start = jax.random.uniform(jax.random.key(0), (4, 2, 2, 1), minval=-1, maxval=1)
    keys = diffusion.per_sample_keys(jax.random.key(1), 4)

    def bpd(part):
        model_fn = lambda x, t: jnp.tanh(x)  # noqa: E731
        return diffusion.bpd_loop(d, model_fn, x_start[part], keys[part])["total_bpd"]

    apart = jnp.concatenate([bpd(slice(0, 1)), bpd(slice(1, 4))])
    np.testing.assert_allclose(bpd(slice(0, 4)), apart, rtol=1e-6)


def test_approx_standard_normal_cdf_has_finite_slope_everywhere():
    x = jnp.concatenate([jnp.linspace(-50, 50, 1001), jnp.array([0.0, 1e4, -1e4])])
    slope = jax.vmap(jax.grad(approx_standard_normal_cdf))(x)
    assert np.all(np.isfinite(slope))
    assert np.all(slope >= 0)
    assert slope[1001] == pytest.approx(1 / np.sqrt(2 * np.pi), rel=1e-6)


def test_discretized_gaussian_log_likelihood_sums_to_one():
    levels = jnp.arange(256, dtype=jnp.float32) / 127.5 - 1
    for mean, log_scale in ((0.0, -3.0), (0.9, -1.0), (-1.2, 0.0)):
        log_probs = diffusion.discretized_gaussian_log_likelihood(
            levels, means=jnp.full(256, mean), log_scales=jnp.full(256, log_scale)
        )
        # The bins' edges are 1/255 away, half a level and a bit: they overlap by 0.4 %.
        assert float(jnp.exp(log_probs).sum()) == pytest.approx(1, abs=5e-3)
