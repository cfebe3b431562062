"""Handwritten digits, class-conditional: the demo."""

from configs import default


def get_config():
    config = default.get_config()
    config.model.image_size = 8
    config.model.in_channels = 1
    config.model.num_channels = 32
    config.model.num_res_blocks = 1
    config.model.channel_mult = (1, 2)
    config.model.attention_resolutions = (4,)
    config.model.num_classes = 10
    config.diffusion.noise_schedule = "cosine"
    config.diffusion.learn_sigma = True
    config.data.name = "digits"
    config.train.num_steps = 2500
    config.train.batch_size = 32
    config.train.lr = 1e-3
    config.train.ema_rate = (0.995,)
    config.train.log_every = 100
    config.train.checkpoint_every = 500
    config.train.sample_every = 500
    config.train.num_samples = 100
    config.train.sample_respacing = "ddim50"
    return config
