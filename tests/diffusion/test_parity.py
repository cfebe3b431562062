"""The diffusion core against the reference, driven by what the golden files hold."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iddpm_jax import diffusion
from iddpm_jax.diffusion.tables import _tables
from iddpm_jax.diffusion.timestep_samplers import loss_second_moment_probabilities
from tests.reference import MEAN_TYPES, channels_last, make_network, relative_error

pytestmark = pytest.mark.parity

MATHS = 1e-5


def test_beta_schedule_and_tables_equal_reference(golden):
    arrays = golden.npz("schedules")
    for name, steps in {tuple(key.split("/")[:2]) for key in arrays}:
        tables = _tables(diffusion.beta_schedule(name, int(steps)))
        prefix = f"{name}/{steps}/"
        for key in (key for key in arrays if key.startswith(prefix)):
            actual, expected = tables[key.removeprefix(prefix)], arrays[key]
            if int(steps) > 1000:
                actual = actual[::37]
            assert actual.dtype == np.float64
            scale = np.where(expected == 0, 1, np.abs(expected))
            error = (np.abs(actual - expected) / scale).max()
            assert golden.report("schedules, relative, float64", error) <= 1e-12, key


def test_space_timesteps_equals_reference(golden):
    for row in golden.json("respacing"):
        if row.get("error"):
            with pytest.raises(ValueError, match="respacing"):
                diffusion.space_timesteps(row["num_timesteps"], row["spec"])
        else:
            kept = diffusion.space_timesteps(row["num_timesteps"], row["spec"])
            assert kept.tolist() == row["timesteps"], row["spec"]


def test_respaced_process_equals_reference(golden):
    arrays = golden.npz("spaced_diffusion")
    for prefix in {key.rsplit("/", 1)[0] for key in arrays}:
        schedule, steps, spec, scaling = prefix.split("/")
        betas = diffusion.beta_schedule(schedule, int(steps))
        kept = diffusion.space_timesteps(int(steps), spec)
        assert kept.tolist() == arrays[f"{prefix}/timestep_map"].tolist()
        respaced = diffusion.respaced_betas(betas, kept)
        expected = arrays[f"{prefix}/betas"]
        error = (np.abs(respaced - expected) / expected).max()
        assert golden.report("respaced betas, relative, float64", error) <= 1e-12
        d = diffusion.make_diffusion(
            betas,
            mean_type="epsilon",
            var_type="learned_range",
            loss_type="mse",
            rescale_timesteps=scaling == "rescaled",
            keep_timesteps=kept,
        )
        timesteps = diffusion.model_timestep(d, jnp.arange(d.num_timesteps))
        np.testing.assert_array_equal(timesteps, arrays[f"{prefix}/model_timesteps"])


def test_loss_functions_equal_reference(golden):
    arrays = golden.npz("losses")
    kl = diffusion.normal_kl(*jnp.asarray(arrays["kl_in"]))
    assert golden.report("losses: normal_kl", relative_error(kl, arrays["kl_out"])) <= MATHS
    log_likelihood = diffusion.discretized_gaussian_log_likelihood(
        arrays["dg_x"], means=arrays["dg_mean"], log_scales=arrays["dg_log_scale"]
    )
    error = relative_error(log_likelihood, arrays["dg_out"])
    assert golden.report("losses: discretized Gaussian", error) <= MATHS


def _ops(golden):
    """(arrays, images as [B, H, W, C], t, T) of diffusion_ops.npz."""
    arrays = golden.npz("diffusion_ops")
    images = {key: channels_last(x) if x.ndim == 4 else x for key, x in arrays.items()}
    t = jnp.asarray(arrays["t"], jnp.int32)
    return images, t, int(t.max()) + 1


def _make(schedule, steps, mean="epsilon", var="learned_range", loss="mse"):
    return diffusion.make_diffusion(
        diffusion.beta_schedule(schedule, steps),
        mean_type=MEAN_TYPES.get(mean, mean),
        var_type=var,
        loss_type=loss,
    )


def test_q_functions_equal_reference(golden):
    arrays, t, steps = _ops(golden)
    x_start = arrays["x_start"]
    for schedule in {key.split("/")[0] for key in arrays if key.endswith("/q_sample")}:
        d = _make(schedule, steps)
        x_t = diffusion.q_sample(d, x_start, t, arrays["noise"])
        posterior = diffusion.q_posterior_mean_variance(d, x_start, x_t, t)
        marginal = diffusion.q_mean_variance(d, x_start, t)
        actual = {"q_sample": x_t, "prior_bpd": diffusion.prior_bpd(d, x_start)}
        for i, name in enumerate(("mean", "variance", "log_variance")):
            actual |= {f"q_mean_variance/{name}": marginal[i], f"q_posterior/{name}": posterior[i]}
        for name, value in actual.items():
            error = relative_error(value, arrays[f"{schedule}/{name}"])
            assert golden.report(f"maths: {name.split('/')[0]}", error) <= MATHS, (schedule, name)


def _cases(arrays):
    """(schedule, mean type, variance type), read off the keys."""
    return sorted({tuple(key.split("/")[:3]) for key in arrays if key.endswith("/p_sample")})


def _output(arrays, var):
    learned = var.startswith("learned")
    return arrays["model_output_with_variance" if learned else "model_output"]


def test_p_functions_and_steps_equal_reference(golden):
    arrays, t, steps = _ops(golden)
    x_start = arrays["x_start"]
    checked = 0
    for schedule, mean, var in _cases(arrays):
        d = _make(schedule, steps, mean, var)
        output = _output(arrays, var)
        x_t = diffusion.q_sample(d, x_start, t, arrays["noise"])

        @functools.partial(jax.jit, static_argnames="clip")
        def everything(d, x_t, clip, output=output):
            def model_fn(x, timestep):
                return output

            step = {"x_t": x_t, "t": t, "noise": arrays["step_noise"], "clip_denoised": clip}
            p = diffusion.p_mean_variance(d, model_fn, x_t, t, clip)
            vb, _ = diffusion.vb_terms_bpd(d, model_fn, x_start, x_t, t, clip)
            results = {
                "mean": p.mean,
                "log_variance": p.log_variance,
                "pred_xstart": p.pred_xstart,
                "vb": vb,
                "p_sample": diffusion.ddpm_step(d, model_fn, **step)[0],
                "ddim_reverse": diffusion.ddim_reverse_step(d, model_fn, **step)[0],
            }
            for eta in (0.0, 0.5, 1.0):
                x_prev, _ = diffusion.ddim_step(d, model_fn, **step, eta=eta)
                results[f"ddim_eta{eta}"] = x_prev
            return results

        for clip in (True, False):
            results = everything(d, x_t, clip)
            prefix = f"{schedule}/{mean}/{var}/{'clip' if clip else 'noclip'}/"
            for key in (key for key in arrays if key.startswith(prefix)):
                name = key.removeprefix(prefix)
                error = relative_error(results[name], arrays[key])
                assert golden.report(f"maths: {name}", error) <= MATHS, key
                checked += 1
    assert checked > 0


def test_training_losses_equal_reference(golden):
    arrays, t, steps = _ops(golden)
    checked = 0
    for schedule, mean, var in _cases(arrays):
        output = _output(arrays, var)
        for loss in ("mse", "rescaled_mse", "kl", "rescaled_kl"):
            prefix = f"{schedule}/{mean}/{var}/{loss}/"
            d = _make(schedule, steps, mean, var, loss)
            terms = diffusion.training_losses(
                d, lambda x, timestep, o=output: o, arrays["x_start"], t, arrays["noise"]
            )
            expected = {
                key.removeprefix(prefix): value
                for key, value in arrays.items()
                if key.startswith(prefix)
            }
            assert set(terms) == set(expected)
            for name, value in terms.items():
                error = relative_error(value, expected[name])
                assert golden.report(f"losses: {loss} {name}", error) <= MATHS, prefix + name
                checked += 1
    assert checked > 0


def test_loss_second_moment_equals_reference(golden):
    arrays = golden.npz("loss_second_moment")
    num_timesteps = arrays["weights"].shape[1]
    sampler = diffusion.timestep_sampler("loss-second-moment", num_timesteps)
    state, update = sampler.init(), jax.jit(sampler.update)
    draw = jax.jit(sampler.sample, static_argnums=2)
    for i in range(len(arrays["weights"])):
        if i:
            t, losses = arrays["t"][i - 1].astype(np.int32), arrays["loss"][i - 1]
            state = update(state, t, losses.astype(np.float32))
        assert bool((state["counts"] == 10).all()) == arrays["warmed_up"][i]
        # Weights are not normalised in the reference until it is warm.
        expected = arrays["weights"][i] / arrays["weights"][i].sum()
        t, weights = draw(state, jax.random.key(i), 8)
        error = relative_error(weights, 1 / (num_timesteps * expected[t]))
        assert golden.report("loss-second-moment: importance weights", error) <= MATHS
        actual = loss_second_moment_probabilities(state, 0.001)
        error = relative_error(actual, expected)
        assert golden.report("loss-second-moment: probabilities", error) <= MATHS


def test_bpd_loop_equals_reference(golden):
    arrays = golden.npz("bpd_loop")
    x_start = channels_last(arrays["x_start"])
    noises = np.moveaxis(arrays["noises"], 2, -1)

    def model_fn(x, timestep):
        mean = jnp.tanh(0.7 * x + 0.01 * timestep.reshape(-1, *[1] * (x.ndim - 1)))
        return jnp.concatenate([mean, jnp.sin(x)], axis=-1)

    for schedule, clip in {tuple(key.split("/")[:2]) for key in arrays if "/" in key}:
        d = _make(schedule, noises.shape[0])
        result = diffusion.bpd_loop(
            d, model_fn, x_start, noises=noises, clip_denoised=clip == "clip"
        )
        for name, value in result.items():
            error = relative_error(value, arrays[f"{schedule}/{clip}/{name}"])
            assert golden.report(f"bpd_loop: {name}", error) <= MATHS, (schedule, clip, name)


def test_sample_loop_equals_reference(golden):
    arrays = golden.npz("sampling_loops")
    model, params = make_network(golden.json("unet")["uncond_learn_sigma"], golden.seed)
    x_T = channels_last(arrays["x_T"])
    noises = np.moveaxis(arrays["step_noises"], 2, -1)
    loops = {
        "ancestral": {"step": diffusion.ddpm_step},
        "ddim_eta0": {"step": diffusion.ddim_step, "eta": 0.0},
        "ddim_eta1": {"step": diffusion.ddim_step, "eta": 1.0},
    }

    @functools.partial(jax.jit, static_argnames="loop")
    def sample(d, noises, loop):
        def model_fn(x, timestep):
            return model.apply({"params": params}, x, timestep)

        return diffusion.sample_loop(d, model_fn, x_T, noises=noises, **loops[loop])

    cases = [key for key in arrays if "/" in key]
    assert cases
    for key in cases:
        schedule, steps, spec, scaling, loop = key.split("/")
        d = diffusion.make_diffusion(
            diffusion.beta_schedule(schedule, int(steps)),
            mean_type="epsilon",
            var_type="learned_range",
            loss_type="mse",
            rescale_timesteps=scaling == "rescaled",
            keep_timesteps=diffusion.space_timesteps(int(steps), spec),
        )
        actual = sample(d, noises[: d.num_timesteps], loop)
        error = np.abs(np.asarray(actual) - channels_last(arrays[key])).max()
        assert golden.report(f"sampling loop, absolute: {loop}", error) <= 2e-3, key
