"""CIFAR-10, unconditional: cosine schedule, L_vlb with importance-sampled timesteps.

The recipe of OpenAI's cifar10_uncond_vlb_50M_500K.pt (Nichol & Dhariwal 2021, table 2, "Lvlb,
cosine": 2.94 bits/dim, FID 11.47 after 500 K iterations at T = 4000). 52.5 M parameters.

    python main.py --config=configs/cifar10_vlb.py --workdir=runs/cifar10_vlb

Hardware: an accelerator. Measured: nothing yet, it needs more than was at hand. The
published weights are imported with `python -m iddpm_jax.import_torch`.
"""

from iddpm_jax.recipes import cifar10_cosine


def get_config():
    config = cifar10_cosine.get_config()
    config.diffusion.use_kl = True
    config.train.schedule_sampler = "loss-second-moment"
    return config
