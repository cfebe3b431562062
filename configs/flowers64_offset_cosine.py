"""Oxford flowers at 64 × 64 by DDIM in continuous time, with the offset cosine schedule.

The recipe of Foster, Generative Deep Learning, chapter 8 (after the Keras example of DDIM): batches
of 64, AdamW with learning rate 1e-3 and weight decay 1e-4, L1 loss on ε, averaged parameters
(0.999), 50 epochs of all 8,189 pictures, 20 steps of DDIM. Widths are the book's (32, 64, 96, 128,
two blocks each); the network is this project's.

    python -m iddpm_jax.prepare_data oxford_flowers102
    python main.py --config=configs/flowers64_offset_cosine.py --workdir=runs/flowers64

Hardware: a GPU. Measured: nothing yet.
"""

from iddpm_jax.config import defaults


def get_config():
    config = defaults.get_config()
    config.model.image_size = 64
    config.model.num_channels = 32
    config.model.num_res_blocks = 2
    config.model.channel_mult = (1, 2, 3, 4)
    config.model.attention_resolutions = ()
    config.diffusion.process = "continuous"
    config.diffusion.noise_schedule = "offset_cosine"
    config.diffusion.loss = "l1"
    config.diffusion.steps = 20
    config.data.name = "tfds:oxford_flowers102"
    config.data.split = "train+validation+test"
    config.data.standardize = True
    config.data.random_flip = True
    config.train.num_steps = 6400
    config.train.batch_size = 64
    config.train.lr = 1e-3
    config.train.weight_decay = 1e-4
    config.train.ema_rate = (0.999,)
    config.train.checkpoint_every = 1000
    config.train.sample_every = 1000
    config.train.sample_respacing = ""
    return config
