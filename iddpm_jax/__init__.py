"""Improved denoising diffusion probabilistic models (Nichol & Dhariwal 2021) in JAX."""

__version__ = "0.1.0"
