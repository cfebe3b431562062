"""Trains a diffusion model: `python main.py …` is `python -m iddpm_jax.train …`."""

from iddpm_jax import train

if __name__ == "__main__":
    train.run()
