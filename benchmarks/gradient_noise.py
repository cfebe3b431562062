"""How noisy gradients of L_vlb are, with timesteps drawn uniformly and by importance.

    python -m benchmarks.gradient_noise --workdir=runs/ablation/L_vlb_cosine_seed0

takes a run trained with train.schedule_sampler="loss-second-moment", measures E|g_t|² of single
examples at every timestep, and compares the variance of an unbiased estimate of the whole gradient
from one example (Nichol & Dhariwal 2021, section 3.3): with probabilities p_t it is
Σ E|g_t|² / (T² p_t) - |E g|².
"""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging

import iddpm_jax
from iddpm_jax import diffusion as dm
from iddpm_jax.config.build_diffusion import build_diffusion
from iddpm_jax.config.build_model import build_model
from iddpm_jax.config.build_state import restore_state
from iddpm_jax.config.record import config_from_dict
from iddpm_jax.data.pixels import to_float
from iddpm_jax.diffusion.timestep_samplers import loss_second_moment_probabilities
from iddpm_jax.files.workdir import read_config

_WORKDIR = flags.DEFINE_string("workdir", None, "Work directory.", required=True)
_NUM = flags.DEFINE_integer("examples", 32, "Examples for each timestep.", lower_bound=2)
_UNIFORM_PROB = 0.001  # As in training.


def second_moments(d, model, params, images, labels, key):
    """E|g_t|² `[T]` over the images, and |E g|² of their mean over all timesteps."""

    def loss(params, image, label, t, noise):
        def model_fn(x_t, timestep):
            return model.apply({"params": params}, x_t, timestep, y=label[None])

        return dm.training_losses(d, model_fn, image[None], t[None], noise[None])["loss"][0]

    @jax.jit
    def one_timestep(t):
        noise = jax.random.normal(jax.random.fold_in(key, t), images.shape)

        def one_example(total, inputs):
            grads = jax.grad(loss)(params, inputs[0], inputs[1], t, inputs[2])
            square = sum(jnp.vdot(g, g) for g in jax.tree.leaves(grads))
            return jax.tree.map(jnp.add, total, grads), square

        zeros = jax.tree.map(jnp.zeros_like, params)
        total, squares = jax.lax.scan(one_example, zeros, (images, labels, noise))
        return squares.mean(), jax.tree.map(lambda g: g / len(images), total)

    moments, mean = [], None
    for t in range(d.num_timesteps):
        square, grads = one_timestep(jnp.int32(t))
        moments.append(float(square))
        mean = grads if mean is None else jax.tree.map(jnp.add, mean, grads)
    square = sum(float(jnp.vdot(g, g)) for g in jax.tree.leaves(mean))
    return np.array(moments), square / d.num_timesteps**2


def variance(moments: np.ndarray, probabilities: np.ndarray, mean_square: float) -> float:
    """Variance of the gradient estimated from one example."""
    return float((moments / probabilities).sum() / moments.size**2 - mean_square)


def main(_) -> None:
    workdir = pathlib.Path(_WORKDIR.value)
    config = config_from_dict(read_config(workdir))
    model, d = build_model(config), build_diffusion(config)
    state = restore_state(config, workdir)
    p = np.asarray(loss_second_moment_probabilities(state.sampler_state, _UNIFORM_PROB))
    source = iddpm_jax.load(str(workdir)).open_source("test")
    batch = source.batch(np.arange(_NUM.value))
    images = to_float(batch["image"])
    moments, mean_square = second_moments(
        d, model, state.params, images, batch["label"].astype(np.int32), jax.random.key(0)
    )
    uniform = variance(moments, np.full(p.size, 1 / p.size), mean_square)
    importance = variance(moments, p, mean_square)
    best = variance(moments, np.sqrt(moments) / np.sqrt(moments).sum(), mean_square)
    print(
        json.dumps(
            {
                "uniform": uniform,
                "importance": importance,
                "uniform / importance": uniform / importance,
                "uniform / best possible": uniform / best,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    logging.set_verbosity(logging.ERROR)
    app.run(main)
