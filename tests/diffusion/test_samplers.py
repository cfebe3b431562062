import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iddpm_jax import diffusion

SHAPE = (4, 4, 1)


def _make(steps=1000, spec="25", schedule="cosine"):
    return diffusion.make_diffusion(
        diffusion.beta_schedule(schedule, steps),
        mean_type="epsilon",
        var_type="learned_range",
        loss_type="mse",
        keep_timesteps=diffusion.space_timesteps(steps, spec),
    )


def _model_fn(x, timestep):
    scale = 1 + 0.001 * timestep.reshape(-1, 1, 1, 1)
    return jnp.concatenate([jnp.tanh(x * scale), jnp.sin(x)], axis=-1)


@functools.partial(jax.jit, static_argnames=("step", "eta"))
def _sample(d, keys, step=diffusion.ddpm_step, eta=None):
    options = {} if eta is None else {"eta": eta}
    x_T = diffusion.initial_noise(keys, SHAPE)
    return diffusion.sample_loop(d, _model_fn, x_T, keys, step=step, **options)


def _keys(count, first=0):
    return diffusion.per_sample_keys(jax.random.key(7), count, first)


def test_sample_loop_gives_each_sample_its_own_noise_whatever_the_batch():
    d = _make()
    together = _sample(d, _keys(6))
    apart = jnp.concatenate([_sample(d, _keys(2, first)) for first in (0, 2, 4)])
    np.testing.assert_array_equal(together, apart)
    assert len(np.unique(together[:, 0, 0, 0])) == 6


def test_sample_loop_derives_keys_from_one_key():
    d, keys = _make(), _keys(3)
    x_T = diffusion.initial_noise(keys, SHAPE)
    for key in (jax.random.key(7), jax.random.PRNGKey(7)):
        from_one = diffusion.sample_loop(d, _model_fn, x_T, key)
        np.testing.assert_allclose(from_one, _sample(d, keys), atol=1e-5)


def test_sample_loop_does_not_recompile_for_other_respacings_of_one_length():
    # Not by name: the cache is that of the function.
    before = _sample._cache_size()
    for steps in (1000, 4000):
        _sample(_make(steps), _keys(5))
    assert _sample._cache_size() == before + 1


def test_ddim_step_with_eta_1_stays_finite_where_rounding_bites():
    for schedule, steps, spec in (("cosine", 4000, "10"), ("cosine", 50, "50")):
        samples = _sample(_make(steps, spec, schedule), _keys(2), diffusion.ddim_step, eta=1.0)
        assert np.all(np.isfinite(samples))


def test_ddim_step_is_deterministic_without_eta():
    d = _make()
    x_T = diffusion.initial_noise(_keys(2), SHAPE)
    one, other = (
        diffusion.sample_loop(d, _model_fn, x_T, jax.random.key(seed), step=diffusion.ddim_step)
        for seed in (1, 2)
    )
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("step", "options", "draws"),
    [
        (diffusion.ddpm_step, {}, True),
        (diffusion.ddim_step, {"eta": 0.5}, True),
        (diffusion.ddim_step, {}, False),
        (diffusion.ddim_step, {"eta": 0.0}, False),
        (diffusion.dpm_solver_step, {}, False),
        (diffusion.ddim_reverse_step, {}, False),
    ],
)
def test_sample_loop_draws_random_numbers_only_for_steps_that_use_them(step, options, draws):
    def sample(key):
        x_T = jnp.ones((2, *SHAPE))
        return diffusion.sample_loop(_make(), _model_fn, x_T, key, step, **options)

    program = str(jax.make_jaxpr(sample)(jax.random.key(0)))
    assert (
        ("random_bits" in program)
        == ("threefry" in jax.jit(sample).lower(jax.random.key(0)).as_text())
        == draws
    )


def test_sample_loop_needs_no_key_where_no_noise_is_drawn():
    d, keys = _make(), _keys(2)
    x_T = diffusion.initial_noise(keys, SHAPE)
    without = diffusion.sample_loop(d, _model_fn, x_T, step=diffusion.ddim_step)
    given = jnp.full((d.num_timesteps, *x_T.shape), 3.0)
    for options in ({"key": keys}, {"noises": given}):
        other = diffusion.sample_loop(d, _model_fn, x_T, step=diffusion.ddim_step, **options)
        np.testing.assert_array_equal(without, other)


@pytest.mark.parametrize("eta", [-0.1, 1.5])
def test_ddim_step_refuses_eta_outside_range(eta):
    x, t = jnp.zeros((1, *SHAPE)), jnp.array([3])
    with pytest.raises(ValueError, match=rf"eta={eta} must be in \[0, 1\]"):
        diffusion.ddim_step(_make(), _model_fn, x, t, x, eta=eta)


def test_ddim_reverse_step_is_undone_by_ddim_step():
    d = _make(spec="1000")
    x = 0.1 * jax.random.normal(jax.random.key(0), (2, *SHAPE))

    def model_fn(x, timestep):
        # A network that always sees the same noise makes the ODE exact in both directions.
        return jnp.full((*x.shape[:-1], 2), 0.3)

    for t in (0, 10, 500, 998):
        up, _ = diffusion.ddim_reverse_step(d, model_fn, x, jnp.full(2, t), clip_denoised=False)
        down, _ = diffusion.ddim_step(
            d, model_fn, up, jnp.full(2, t + 1), jnp.zeros_like(x), clip_denoised=False
        )
        np.testing.assert_allclose(down, x, atol=2e-4)


def test_ddim_step_refuses_to_add_noise_that_is_not_there():
    d, x = _make(), jnp.zeros((1, *SHAPE))
    with pytest.raises(ValueError, match=r"eta=1\.0 adds noise, and none was given"):
        diffusion.ddim_step(d, _model_fn, x, jnp.ones(1, jnp.int32), eta=1.0)


def test_sample_loop_refuses_both_or_neither_of_key_and_noises():
    d, x_T = _make(), jnp.zeros((1, *SHAPE))
    with pytest.raises(ValueError, match="a key or the noises"):
        diffusion.sample_loop(d, _model_fn, x_T)
    noises = jnp.zeros((d.num_timesteps, *x_T.shape))
    with pytest.raises(ValueError, match="a key or the noises"):
        diffusion.bpd_loop(d, _model_fn, x_T, jax.random.key(0), noises=noises)


def test_per_sample_keys_refuses_another_number_of_keys():
    with pytest.raises(ValueError, match="3 keys were given for a batch of 2"):
        diffusion.per_sample_keys(_keys(3), 2)


def _error_on_gaussian_data(step, count, std=0.4):
    """Largest error of a sampler where the best network and the exact ODE are known.

    For data N(0, std²) the posterior mean is E[x_0 | x_t] = √ᾱ std² / (ᾱ std² + 1 - ᾱ) · x_t, and
    the probability-flow ODE scales x_t by the marginal's standard deviation.
    """
    betas = diffusion.beta_schedule("linear", 20_000)
    alphas_cumprod = np.cumprod(1 - betas)
    kept = diffusion.log_snr_timesteps(betas, count)
    d = diffusion.make_diffusion(
        betas,
        mean_type="x_start",
        var_type="fixed_small",
        loss_type="mse",
        keep_timesteps=kept,
    )
    table = jnp.asarray(alphas_cumprod, jnp.float32)

    def model_fn(x, timestep):
        alpha_bar = table[timestep.astype(int)].reshape(-1, 1, 1, 1)
        return jnp.sqrt(alpha_bar) * std**2 / (alpha_bar * std**2 + 1 - alpha_bar) * x

    x_T = jnp.linspace(-2, 2, 16).reshape(1, *SHAPE)
    x_0 = diffusion.sample_loop(d, model_fn, x_T, jax.random.key(0), step=step, clip_denoised=False)
    alpha_bar = alphas_cumprod[kept[-1]]
    exact = x_T * std / np.sqrt(alpha_bar * std**2 + 1 - alpha_bar)
    return float(jnp.abs(x_0 - exact).max())


@diffusion.declare(uses_noise=lambda churn=0.0, **_: churn > 0, ranges={"churn": (0, 1)})
def heun_like_step(d, model_fn, x_t, t, noise, *, clip_denoised=True, churn=0.0):
    """Calls the network twice: DDIM to t - 1, and again with the mean of both ends' ε.

    Of the ODE dx̄ = ε dσ̄ with x̄ = x / √ᾱ and σ̄ = √(1 - ᾱ) / √ᾱ (Song et al. 2021, eq. 14).
    """
    del noise, churn
    x_prev, pred_xstart = diffusion.ddim_step(d, model_fn, x_t, t, clip_denoised=clip_denoised)
    below = jnp.maximum(t - 1, 0)
    there = diffusion.p_mean_variance(d, model_fn, x_prev, below, clip_denoised).pred_xstart
    eps = diffusion.predict_eps_from_xstart(d, x_t, t, pred_xstart)
    eps += diffusion.predict_eps_from_xstart(d, x_prev, below, there)
    root, root_prev = (
        jnp.sqrt(diffusion.extract(table, t, x_t.ndim))
        for table in (d.alphas_cumprod, d.alphas_cumprod_prev)
    )
    sigma, sigma_prev = jnp.sqrt(1 / root**2 - 1), jnp.sqrt(1 / root_prev**2 - 1)
    corrected = root_prev * (x_t / root + (sigma_prev - sigma) * eps / 2)
    last = (t == 0).reshape(-1, 1, 1, 1)
    return jnp.where(last, x_prev, corrected), pred_xstart


def test_samplers_converge_with_their_order():
    counts = (40, 80)
    for step, order, error_at_40 in (
        (diffusion.ddim_step, 1, 0.1),
        (diffusion.dpm_solver_step, 2, 0.01),
        (heun_like_step, 2, 0.01),
    ):
        coarse, fine = (_error_on_gaussian_data(step, count) for count in counts)
        assert coarse < error_at_40
        assert np.log2(coarse / fine) == pytest.approx(order, abs=0.25)


def test_sample_steps_in_parts_equal_one_loop():
    d, keys = _make(), _keys(2)
    x_T = diffusion.initial_noise(keys, SHAPE)
    timesteps = jnp.arange(24, -1, -1)
    for step in (diffusion.ddpm_step, diffusion.dpm_solver_step):
        whole = diffusion.sample_loop(d, _model_fn, x_T, keys, step=step)
        carry = (x_T, jnp.zeros_like(x_T))
        for part in timesteps.reshape(5, 5):
            carry = diffusion.sample_steps(d, _model_fn, carry, part, keys, step)
        np.testing.assert_allclose(carry[0], whole, atol=1e-5)


@diffusion.declare(uses_noise=False, first_memory=lambda x_T: {"x_0": jnp.zeros_like(x_T)})
def _remembering_step(d, model_fn, x_t, t, noise, *, memory):
    """DPM-Solver++(2M) as one that keeps for itself what it looks back on."""
    last = memory["x_0"]
    x_prev, x_0 = diffusion.dpm_solver_step(d, model_fn, x_t, t, noise, last_xstart=last)
    return x_prev, jnp.full_like(x_0, 7.0), {"x_0": x_0}


def test_sample_steps_hands_a_step_what_it_remembers():
    d, x_T = _make(), diffusion.initial_noise(_keys(2), SHAPE)
    carry = diffusion.first_carry(_remembering_step, x_T)
    for part in jnp.arange(24, -1, -1).reshape(5, 5):
        carry = diffusion.sample_steps(d, _model_fn, carry, part, None, _remembering_step)
    expected = diffusion.sample_loop(d, _model_fn, x_T, step=diffusion.dpm_solver_step)
    np.testing.assert_allclose(carry[0], expected, atol=1e-5)
    np.testing.assert_array_equal(carry[1], jnp.full_like(x_T, 7.0))
    whole = diffusion.sample_loop(d, _model_fn, x_T, step=_remembering_step)
    np.testing.assert_allclose(whole, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("plms", {}, r"unknown sampler 'plms'.*ddpm, ddim, dpm-solver\+\+, heun-like"),
        ("ddpm", {"eta": 0.5}, "eta=0.5 is an option of ddim, not of ddpm"),
        ("ddim", {"churn": 0.5}, "churn=0.5 is an option of heun-like, not of ddim"),
        ("heun-like", {"churn": 1.5}, r"churn=1.5 must be in \[0, 1\]"),
        ("ddim", {"power": 2}, "power=2 is an option of no sampler, not of ddim"),
    ],
)
def test_check_sampler_knows_each_by_its_function_alone(monkeypatch, name, options, message):
    monkeypatch.setitem(diffusion.SAMPLERS, "heun-like", heun_like_step)
    diffusion.check_sampler("heun-like", churn=0.5)
    with pytest.raises(ValueError, match=message):
        diffusion.check_sampler(name, **options)
