"""ImageNet super-resolution from 64 × 64 to 256 × 256, class-conditional.

The recipe of OpenAI's upsample_cond_500K.pt (Nichol & Dhariwal 2021, section 5), the second stage
of their cascade: linear schedule, learned sigmas, L_hybrid, 500 K iterations of batches of 256,
timesteps and vb term unscaled. 280 M parameters.

    python main.py --config=configs/upsample_64_256.py --config.data.dir=FOLDER \
        --workdir=runs/upsample_64_256
    python -m iddpm_jax.super_resolve --workdir=runs/upsample_64_256 --base_samples=samples.npz

Hardware: accelerators. Measured: nothing yet. The published weights are imported with
`python -m iddpm_jax.import_torch`.
"""

from iddpm_jax.config import defaults


def get_config():
    config = defaults.get_config()
    config.model.image_size = 256
    config.model.small_size = 64
    config.model.num_channels = 192
    config.model.num_res_blocks = 2
    config.model.num_classes = 1000
    config.diffusion.steps = 4000
    config.diffusion.noise_schedule = "linear"
    config.diffusion.learn_sigma = True
    config.diffusion.rescale_timesteps = False
    config.diffusion.rescale_learned_sigmas = False
    config.data.name = "folder"
    config.train.num_steps = 500_000
    config.train.batch_size = 256
    config.train.lr = 3e-4
    config.train.ema_rate = (0.9999,)
    config.train.checkpoint_every = 10_000
    config.train.sample_every = 10_000
    return config
