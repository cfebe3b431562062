import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iddpm_jax import diffusion as dm

SCHEDULES = ("offset_cosine", "cosine", "linear")
T = np.linspace(0, 1, 101)


def _process(schedule="offset_cosine", loss="l2"):
    return dm.make_continuous(schedule, loss)


def test_rates_are_the_closed_forms():
    signal, _ = dm.rates(_process("cosine"), T)
    np.testing.assert_allclose(signal, np.cos(T * np.pi / 2), atol=1e-15)
    signal, _ = dm.rates(_process("offset_cosine"), T)
    assert (signal[0], signal[-1]) == pytest.approx((0.95, 0.02), abs=1e-12)
    # The angle moves evenly.
    np.testing.assert_allclose(np.diff(np.arccos(signal), n=2), 0, atol=1e-12)
    signal, _ = dm.rates(_process("linear"), T)
    np.testing.assert_allclose(signal, np.exp(-0.5 * (0.1 * T + 0.5 * 19.9 * T**2)), rtol=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_rates_keep_the_variance_and_fall(schedule):
    signal, noise = dm.rates(_process(schedule), T)
    np.testing.assert_allclose(signal**2 + noise**2, 1, rtol=1e-12)
    assert (np.diff(signal) < 0).all()
    assert (np.diff(noise) > 0).all()
    on_device = dm.rates(_process(schedule), jnp.asarray(T, jnp.float32))
    np.testing.assert_allclose(on_device, (signal, noise), atol=1e-5)


@pytest.mark.parametrize("t", [-0.01, 1.01, np.array([0.5, 2.0]), np.nan])
def test_rates_refuse_times_outside_the_unit_interval(t):
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        dm.rates(_process(), t)
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        dm.rates(_process(), jnp.asarray(t))


def test_make_continuous_refuses_unknown_names():
    with pytest.raises(ValueError, match=r"'sigmoid'.*offset_cosine"):
        dm.make_continuous("sigmoid", "l1")
    with pytest.raises(ValueError, match=r"'huber'.*l1, l2"):
        dm.make_continuous("cosine", "huber")
    with pytest.raises(ValueError, match="at least 2 steps, got 1"):
        dm.discretise(_process(), 1)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_variance_of_x_t_stays_1_for_data_of_variance_1(schedule):
    keys = jax.random.split(jax.random.key(0), 2)
    x_start, noise = (jax.random.normal(key, (64, 32, 32, 1)) for key in keys)
    for t in (0.0, 0.3, 0.7, 1.0):
        x_t = dm.add_noise(_process(schedule), x_start, jnp.full(64, t), noise)
        # 65,536 values: the standard error of a variance is 0.0055.
        assert float(x_t.var()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("loss", "expected"), [("l1", 0.5), ("l2", 0.25)])
def test_noise_loss_is_of_the_noise_and_the_network_is_told_its_variance(loss, expected):
    c = _process("cosine", loss)
    t = jnp.asarray([0.0, 0.5, 1.0])
    x_start, noise = jnp.ones((3, 4, 4, 1)), jnp.full((3, 4, 4, 1), 2.0)
    told = []

    def model_fn(x_t, timestep):
        told.append((x_t, timestep))
        return noise - 0.5

    losses = dm.noise_loss(c, model_fn, x_start, t, noise)
    np.testing.assert_allclose(losses, np.full(3, expected), rtol=1e-6)
    x_t, timestep = told[0]
    np.testing.assert_allclose(timestep, [0, 500, 1000], atol=1e-3)
    root = np.sqrt(0.5)
    np.testing.assert_allclose(x_t[:, 0, 0, 0], [1, root + 2 * root, 2], rtol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_discretised_process_is_the_continuous_one_at_its_times(schedule):
    c, count = _process(schedule), 50
    d = dm.discretise(c, count)
    times = np.arange(1, count + 1) / count
    signal, noise_rate = dm.rates(c, times)
    # The plain cosine has no signal left at the very end, where x_0 could not be predicted.
    signal = np.maximum(signal, 1e-3)
    np.testing.assert_allclose(d.sqrt_alphas_cumprod, signal, rtol=1e-5)
    np.testing.assert_allclose(d.model_timesteps, 1000 * noise_rate**2, rtol=1e-6)
    x_start = jax.random.normal(jax.random.key(0), (count, 2, 2, 1))
    noise = jax.random.normal(jax.random.key(1), x_start.shape)
    discrete = dm.q_sample(d, x_start, jnp.arange(count), noise)
    continuous = dm.add_noise(c, x_start, jnp.asarray(times), noise)
    compared = slice(None, -1 if schedule == "cosine" else None)
    np.testing.assert_allclose(discrete[compared], continuous[compared], atol=1e-5)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_process_can_have_many_steps(schedule):
    d = dm.discretise(_process(schedule), 4000)
    assert all(np.isfinite(table).all() for table in jax.tree.leaves(d))
    assert (np.asarray(d.alphas_cumprod) > 0).all()


def test_discretise_refuses_steps_that_have_no_noise():
    with pytest.raises(ValueError, match="10000 steps of the cosine schedule has less noise"):
        dm.discretise(_process("cosine"), 10_000)


def test_discretised_linear_process_is_ddpms():
    """1,000 steps of the continuous schedule, against the discrete one that it is the limit of."""
    d = dm.discretise(_process("linear"), 1000)
    discrete = np.cumprod(1 - dm.beta_schedule("linear", 1000))
    np.testing.assert_allclose(d.alphas_cumprod, discrete, atol=1e-3)


def _gaussian_score(d, std):
    """The best prediction of ε for data N(0, std²): E[ε | x_t] = σ_t x_t / (ᾱ_t std² + σ_t²)."""

    def model_fn(x_t, timestep):
        variance = timestep[:, None, None, None] / 1000
        return jnp.sqrt(variance) * x_t / ((1 - variance) * std**2 + variance)

    return model_fn


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("step", [dm.ddim_step, dm.dpm_solver_step])
def test_samplers_solve_the_equation_of_gaussian_data_exactly(schedule, step):
    """The ODE's solution scales x_T to the data's deviation; the error falls with the steps."""
    std, c = 0.5, _process(schedule)
    x_T = jax.random.normal(jax.random.key(0), (4, 8, 8, 1))
    signal, sigma = (float(rate) for rate in dm.rates(c, 1.0))
    exact = x_T * std / np.sqrt(signal**2 * std**2 + sigma**2)
    errors = []
    for count in (50, 100, 400):
        d = dm.discretise(c, count)
        x_0 = dm.sample_loop(
            d, _gaussian_score(d, std), x_T, jax.random.key(1), step, clip_denoised=False
        )
        # The last step goes to the predicted x_0, which is exact as the first time goes to 0.
        errors.append(float(jnp.abs(x_0 - exact).max()))
    limit = _last_step_error(c, std, exact)
    assert errors[0] > errors[1] > errors[2] or errors[2] < 1e-3
    assert errors[2] < 0.02 + limit


def _last_step_error(c, std, exact):
    """Where the schedule never gets to t = 0 without noise, the mean of x_0 is what is drawn."""
    signal, sigma = dm.rates(c, 0.0)
    shrink = signal * std / np.sqrt(signal**2 * std**2 + sigma**2)
    return float(jnp.abs(exact).max()) * (1 - shrink)


def test_ddim_with_noise_keeps_the_variance_of_gaussian_data():
    d = dm.discretise(_process("offset_cosine"), 200)
    x_T = jax.random.normal(jax.random.key(0), (16, 16, 16, 1))
    x_0 = dm.sample_loop(
        d,
        _gaussian_score(d, 1.0),
        x_T,
        jax.random.key(1),
        dm.ddim_step,
        clip_denoised=False,
        eta=1.0,
    )
    # The mean of x_0 given x_{1/N}, whose signal rate is 0.95.
    assert float(x_0.std()) == pytest.approx(0.95, abs=0.03)
