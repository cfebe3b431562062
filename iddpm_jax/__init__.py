"""Improved denoising diffusion probabilistic models (Nichol & Dhariwal 2021) in JAX."""

__version__ = "0.1.0"


def load(workdir: str, ema: str = ""):
    """Loads a trained model; see `iddpm_jax.trained.load`."""
    # Imported late: `from iddpm_jax import diffusion` is to need nothing but jax and numpy.
    from iddpm_jax import trained

    return trained.load(workdir, ema)
