"""Trains a diffusion model: `python main.py …` is `python -m iddpm_jax.train …`."""

from iddpm_jax import huge_pages

if __name__ == "__main__":
    huge_pages.restart_with()  # Before the imports that take seconds.

    from iddpm_jax import train

    train.run()
