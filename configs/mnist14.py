"""MNIST at 14 × 14, class-conditional: the small model of the diffusers family.

28 × 28 scans made smaller by means of 2 × 2; block channels 32, 64, 32, two residual blocks each;
the cosine schedule (diffusers' "squaredcos_cap_v2"), T = 1000, posterior variance (fixed_small),
MSE on ε; 5,120 images, batches of 512, AdamW with learning rate 1e-4, no averages; sampling with
800 steps spaced by rounding linspace(0, T - 1). 1.07 M parameters.

    python -m iddpm_jax.prepare_data mnist
    python main.py --config=configs/mnist14.py --workdir=runs/mnist14
    python -m iddpm_jax.sample --workdir=runs/mnist14 --respacing=linspace800

Hardware: two CPU cores are enough.

Measured on two cores of an AMD EPYC, float32, with `python -m benchmarks.mnist14`, which has the
same shapes but random images: 38.7 s an epoch of 5,120 images, 2.4 ms a sampling step at batch 1;
compiling takes 12.3 s for training and 1.9 s for sampling. (An implementation of this model in
numpy took 14 minutes and 25 ms.) Not trained on MNIST yet, for want of a network;
`configs/digits_mnist14.py` is the same on data that needs no download.
"""

from iddpm_jax.config import defaults


def get_config():
    config = defaults.get_config()
    config.model.image_size = 14
    config.model.in_channels = 1
    config.model.num_channels = 32
    config.model.num_res_blocks = 2
    config.model.channel_mult = (1, 2, 1)
    config.model.attention_resolutions = ()
    config.model.num_classes = 10
    config.diffusion.noise_schedule = "squaredcos_cap_v2"
    config.diffusion.sigma_small = True
    config.data.name = "tfds:mnist"
    config.data.split = "train[:5120]"
    config.data.resize = True
    config.train.num_steps = 5000  # 500 epochs.
    config.train.batch_size = 512
    config.train.lr = 1e-4
    config.train.weight_decay = 0.01
    config.train.ema_rate = ()
    config.train.checkpoint_every = 500
    config.train.sample_every = 500
    config.train.num_samples = 100
    config.train.sample_respacing = "linspace100"
    return config
