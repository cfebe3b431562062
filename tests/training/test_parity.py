"""Optimiser steps against the reference: losses, gradients, raw and averaged parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iddpm_jax import diffusion
from iddpm_jax.training import metrics as mt
from iddpm_jax.training.objective import DiscreteObjective
from iddpm_jax.training.optimizer import linear_anneal, make_optimizer
from iddpm_jax.training.state import init_state
from iddpm_jax.training.step import TrainStep
from tests.reference import channels_last, make_network, relative_error

pytestmark = pytest.mark.parity

STEPS = 1e-3
NUM_TIMESTEPS = 1000
PROBE_TIMESTEP = 500
LOSS_TYPES = {"hybrid": "rescaled_mse", "vlb": "rescaled_kl"}


def _anneal_steps(lr: np.ndarray) -> int:
    return 0 if lr[0] == lr[1] else round(lr[0] / (lr[0] - lr[1]))


def test_optimizer_steps_equal_reference(golden):
    arrays = golden.npz("train_steps")
    model, params = make_network(golden.json("unet")["uncond_learn_sigma"], golden.seed)
    apply = jax.jit(model.apply)
    for name in sorted({key.split("/")[0] for key in arrays}):
        run = {key.split("/")[1]: arrays[key] for key in arrays if key.startswith(name + "/")}
        d = diffusion.make_diffusion(
            diffusion.beta_schedule("cosine", NUM_TIMESTEPS),
            mean_type="epsilon",
            var_type="learned_range",
            loss_type=LOSS_TYPES[name],
            rescale_timesteps=True,
        )
        decays = [key.rsplit("_", 1)[1] for key in run if key.startswith("output_after_ema")]
        learning_rate = linear_anneal(float(run["lr"][0]), _anneal_steps(run["lr"]))
        optimizer = make_optimizer(
            learning_rate,
            weight_decay=float(run["weight_decay"]),
            ema_rates=[float(decay) for decay in decays],
        )
        sampler = diffusion.timestep_sampler("uniform", NUM_TIMESTEPS)
        objective = DiscreteObjective(d, sampler)
        update = jax.jit(TrainStep(objective, model, optimizer).update)
        state = init_state(jax.tree.map(jnp.asarray, params), objective, optimizer)

        def check(what, actual, expected, name=name):
            error = relative_error(actual, expected)
            assert golden.report(f"optimiser steps: {what}", error) <= STEPS, name

        for i in range(len(run["loss"])):
            drawn = {
                "noise": channels_last(run["noise"][i]),
                "t": run["t"][i].astype(np.int32),
                "weights": run["importance_weights"][i],
            }
            batch = {"image": channels_last(run["x"][i])}
            state = state.replace(metrics=mt.initial_metrics(objective))
            state = update(state, batch, drawn, jax.random.key(0))
            measured = mt.compute(state.metrics)
            for key in ("loss", "grad_norm", "lr"):
                check(key, measured[key], run[key][i])

        probe, timestep = channels_last(run["probe"]), jnp.full(1, float(PROBE_TIMESTEP))
        output = apply({"params": state.params}, probe, timestep)
        check("raw weights", output, channels_last(run["output_after"]))
        assert decays
        for decay in decays:
            output = apply({"params": state.ema[decay]}, probe, timestep)
            check("EMA weights", output, channels_last(run[f"output_after_ema_{decay}"]))
