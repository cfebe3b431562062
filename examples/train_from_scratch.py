"""Data, a schedule and a training loop of your own, with the library's public functions alone.

    python -m examples.train_from_scratch --steps=1000 --out=samples.png

`iddpm train` adds resuming, several devices, mixed precision and logs; this is what is inside.
"""

import argparse

import jax
import numpy as np
import optax
from PIL import Image

from iddpm_jax import diffusion as dm
from iddpm_jax import models

MODEL = models.UNet(32, 2, 1, attention_resolutions=(2,), channel_mult=(1, 2), in_channels=1)
CHOICES = {"mean_type": "epsilon", "var_type": "learned_range", "loss_type": "rescaled_mse"}
OPTIMIZER = optax.adam(1e-3)


def crosses(random: np.random.Generator, count: int) -> np.ndarray:
    """The data: bright crosses at random places, float32 [N, 8, 8, 1] in [-1, 1]."""
    images = np.full((count, 8, 8, 1), -1, np.float32)
    for image, (row, column) in zip(images, random.integers(1, 7, (count, 2)), strict=True):
        image[row, :], image[:, column] = 1, 1
    return images


def schedule(num_timesteps: int) -> np.ndarray:
    """The noise schedule, betas float64 [T], of a signal ᾱ that falls as (1 - t)²."""
    alphas_cumprod = np.maximum(np.linspace(1, 0, num_timesteps + 1) ** 2, 1e-5)
    return 1 - alphas_cumprod[1:] / alphas_cumprod[:-1]


def network(params):
    """The network as diffusion calls it: (x_t, timestep) to ε and the variance's fraction."""
    return lambda x_t, timestep: MODEL.apply({"params": params}, x_t, timestep)


def train(process: dm.GaussianDiffusion, steps: int) -> dict:
    """Minimises L_hybrid for `steps` batches of 32; returns the averaged parameters."""

    def loss_fn(params, x_start, t, noise):
        return dm.training_losses(process, network(params), x_start, t, noise)["loss"].mean()

    @jax.jit
    def step(params, average, opt_state, x_start, keys):
        t = jax.random.randint(keys[0], x_start.shape[:1], 0, process.num_timesteps)
        noise = jax.random.normal(keys[1], x_start.shape)
        loss, grads = jax.value_and_grad(loss_fn)(params, x_start, t, noise)
        updates, opt_state = OPTIMIZER.update(grads, opt_state)
        params = optax.apply_updates(params, updates)
        return params, optax.incremental_update(params, average, 0.01), opt_state, loss

    params = MODEL.init_params(jax.random.key(0))
    state, random = (params, params, OPTIMIZER.init(params)), np.random.default_rng(0)
    for i, keys in enumerate(jax.random.split(jax.random.key(1), (steps, 2))):
        *state, loss = step(*state, crosses(random, 32), keys)
        if i % 100 == 0 or i == steps - 1:
            print(f"step {i:5d} | loss {loss:.4f}")
    return state[1]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=1000, help="batches to train on")
    parser.add_argument("--out", default="samples.png", help="picture to write")
    args = parser.parse_args(argv)
    params = train(process := dm.make_diffusion(schedule(200), **CHOICES), args.steps)
    x_T = jax.random.normal(jax.random.key(2), (16, 8, 8, 1))  # noqa: N806
    samples = dm.sample_loop(process, network(params), x_T, jax.random.key(3))
    pixels = ((np.hstack(samples[..., 0]) + 1) * 127.5).clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels.repeat(8, 0).repeat(8, 1)).save(args.out)


if __name__ == "__main__":
    main()
