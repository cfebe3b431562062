"""ImageNet 64 × 64, unconditional: cosine schedule, learned sigmas, L_hybrid.

The recipe of OpenAI's imagenet64_uncond_100M_1500K.pt (Nichol & Dhariwal 2021, table 1: 3.57
bits/dim, FID 19.2 after 1.5 M iterations at T = 4000). 121 M parameters.

    python main.py --config=configs/imagenet64_uncond.py --workdir=runs/imagenet64_uncond

Hardware: accelerators. Measured: nothing yet; it needs more than was at hand. The
published weights are imported with `python -m iddpm_jax.import_torch`.
"""

from iddpm_jax.config import defaults


def get_config():
    config = defaults.get_config()
    config.model.image_size = 64
    config.model.num_channels = 128
    config.model.num_res_blocks = 3
    config.diffusion.steps = 4000
    config.diffusion.noise_schedule = "cosine"
    config.diffusion.learn_sigma = True
    config.data.name = "tfds:imagenet_resized/64x64"
    config.train.num_steps = 1_500_000
    config.train.batch_size = 128
    config.train.lr = 1e-4
    config.train.ema_rate = (0.9999,)
    config.train.checkpoint_every = 10_000
    config.train.sample_every = 10_000
    return config
