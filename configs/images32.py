"""Your own images at 32 × 32: a small network that also trains on a laptop.

The paper's method (cosine schedule, learned sigmas, L_hybrid) with 4.1 M parameters.

    python main.py --config=configs/images32.py --config.data.dir=FOLDER --workdir=runs/mine

FOLDER may have any images in any folders below it, or be a zip or tar archive. With
`--config.model.num_classes=N` classes are what comes before the first underscore of a file's name,
or the directory that it is in with `--config.data.labels=directory`.

Hardware: two CPU cores are enough to try it. Measured on 1,200 crops of scikit-learn's two
photographs, two classes, on two cores that were busy otherwise too: 1.3 steps/s, 21 images/s, loss
0.075 after 500 steps (7 min), when samples of the weights themselves (`--ema=none`) begin to show
sky, leaves and petals.
"""

from iddpm_jax.config import defaults


def get_config():
    config = defaults.get_config()
    config.model.image_size = 32
    config.model.num_channels = 32
    config.model.num_res_blocks = 2
    config.model.channel_mult = (1, 2, 4)
    config.model.attention_resolutions = (8,)
    config.diffusion.noise_schedule = "cosine"
    config.diffusion.learn_sigma = True
    config.data.name = "folder"
    config.data.random_flip = True
    config.train.num_steps = 20_000
    config.train.batch_size = 16
    config.train.lr = 3e-4
    config.train.ema_rate = (0.995,)
    config.train.checkpoint_every = 500
    config.train.sample_every = 500
    config.train.num_samples = 36
    return config
