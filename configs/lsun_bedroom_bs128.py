"""LSUN bedrooms 256 × 256, unconditional: linear schedule, learned sigmas, batches of 128.

The recipe of OpenAI's lsun_uncond_100M_1200K_bs128.pt: 1.2 M iterations at learning rate 1e-4, one
attention head, additive conditioning, timesteps and vb term unscaled. 114 M parameters.

    python main.py --config=configs/lsun_bedroom_bs128.py --workdir=runs/lsun_bs128 \\
        --config.data.dir=FOLDER_OF_IMAGES

Hardware: accelerators. Measured: nothing yet; it needs more than was at hand. The
published weights are imported with `python -m iddpm_jax.import_torch`.
"""

from iddpm_jax.config import defaults


def get_config():
    config = defaults.get_config()
    config.model.image_size = 256
    config.model.num_channels = 128
    config.model.num_res_blocks = 2
    config.model.num_heads = 1
    config.model.attention_resolutions = (16,)
    config.model.use_scale_shift_norm = False
    config.diffusion.steps = 1000
    config.diffusion.noise_schedule = "linear"
    config.diffusion.learn_sigma = True
    config.diffusion.rescale_timesteps = False
    config.diffusion.rescale_learned_sigmas = False
    config.data.name = "folder"
    config.train.num_steps = 1_200_000
    config.train.batch_size = 128
    config.train.lr = 1e-4
    config.train.ema_rate = (0.9999,)
    config.train.checkpoint_every = 10_000
    config.train.sample_every = 10_000
    return config
