"""ImageNet 64 × 64, class-conditional: cosine schedule, learned sigmas, L_hybrid.

The recipe of OpenAI's imagenet64_cond_270M_250K.pt (Nichol & Dhariwal 2021, section 5: FID 2.92
after 250 K iterations of batches of 2048). It tells the network its timesteps unscaled, and adds
the vb term unscaled. 273 M parameters.

    python main.py --config=configs/imagenet64_cond.py --workdir=runs/imagenet64_cond

Hardware: accelerators; `--config.train.microbatch` where memory does not hold the batch. Measured:
nothing yet; it needs more than was at hand. The published weights are imported with
`python -m iddpm_jax.import_torch`.
"""

from iddpm_jax.config import defaults


def get_config():
    config = defaults.get_config()
    config.model.image_size = 64
    config.model.num_channels = 192
    config.model.num_res_blocks = 3
    config.model.num_classes = 1000
    config.diffusion.steps = 4000
    config.diffusion.noise_schedule = "cosine"
    config.diffusion.learn_sigma = True
    config.diffusion.rescale_timesteps = False
    config.diffusion.rescale_learned_sigmas = False
    config.data.name = "tfds:imagenet_resized/64x64"
    config.train.num_steps = 250_000
    config.train.batch_size = 2048
    config.train.lr = 3e-4
    config.train.ema_rate = (0.9999,)
    config.train.checkpoint_every = 10_000
    config.train.sample_every = 10_000
    return config
