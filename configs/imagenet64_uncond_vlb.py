"""ImageNet 64 × 64, unconditional: cosine schedule, L_vlb with importance-sampled timesteps.

The recipe of OpenAI's imagenet64_uncond_vlb_100M_1500K.pt (Nichol & Dhariwal 2021, table 1: 3.53
bits/dim, FID 40.1 after 1.5 M iterations at T = 4000). 121 M parameters.

    python main.py --config=configs/imagenet64_uncond_vlb.py --workdir=runs/imagenet64_uncond_vlb

Hardware: accelerators. Measured: nothing yet; it needs more than was at hand. The
published weights are imported with `python -m iddpm_jax.import_torch`.
"""

from iddpm_jax.recipes import imagenet64_uncond


def get_config():
    config = imagenet64_uncond.get_config()
    config.diffusion.use_kl = True
    config.train.schedule_sampler = "loss-second-moment"
    return config
