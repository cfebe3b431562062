"""Every configuration key with its default. The other files override what they are about.

The names are those of the flags of OpenAI's improved-diffusion, and so are the defaults of
the model and the diffusion process.
"""

import ml_collections
from ml_collections import config_dict


def get_config() -> ml_collections.ConfigDict:
    """Returns the defaults, locked: a key that is not here is an error."""
    config = ml_collections.ConfigDict()
    config.model = _model()
    config.diffusion = _diffusion()
    config.data = _data()
    config.train = _train()
    return config.lock()


def _model() -> ml_collections.ConfigDict:
    model = ml_collections.ConfigDict()
    model.network = ""  # Your own, module:function (docs/extending.md); empty: the UNet.
    model.image_size = 64  # Height and width in pixels.
    model.small_size = 0  # Size of a super-resolution model's low-resolution input; 0: none.
    model.in_channels = 3  # 1 to 4.
    model.num_channels = 128  # Channels at full resolution, a multiple of 32.
    model.num_res_blocks = 2  # Residual blocks per resolution.
    model.channel_mult = ()  # Factor on num_channels per resolution; empty: by image_size.
    model.attention_resolutions = (16, 8)  # Feature map sizes at which blocks attend; or none.
    model.num_heads = 4  # Attention heads.
    model.num_heads_upsample = -1  # Heads on the way up; -1: as num_heads.
    model.num_classes = 0  # Classes of a class-conditional model; 0: unconditional.
    model.dropout = 0.0
    model.use_scale_shift_norm = True  # Condition by scale and shift; False: by addition.
    model.conv_resample = True  # Resample by convolutions; False: by pooling and repetition.
    model.use_checkpoint = False  # Recompute activations: less memory, more time.
    model.dtype = "float32"  # Compute dtype; or bfloat16, float16. Parameters are float32.
    return model


def _diffusion() -> ml_collections.ConfigDict:
    diffusion = ml_collections.ConfigDict()
    diffusion.process = "discrete"  # Or continuous: time in [0, 1], ε predicted, no likelihood.
    diffusion.steps = 1000  # T; of a continuous process the steps of sampling by default.
    diffusion.noise_schedule = "linear"  # Also cosine, scaled_linear, sigmoid; continuous:
    # offset_cosine, cosine, linear. Or your own, module:function (docs/extending.md).
    diffusion.schedule_digest = ""  # Of your own schedule; training fills it in.
    diffusion.loss = "l2"  # Of a continuous process: on ε, l1 or l2.
    diffusion.learn_sigma = False  # Learn the variance, between β̃ and β (IDDPM, eq. 15).
    diffusion.sigma_small = False  # Without learn_sigma: variance β̃ instead of β.
    diffusion.use_kl = False  # Train on the whole bound L_vlb.
    diffusion.predict_xstart = False  # Predict x_0 instead of ε.
    diffusion.rescale_timesteps = True  # Tell the network t · 1000 / T.
    diffusion.rescale_learned_sigmas = True  # Weight of the vb term: T / 1000 instead of 1.
    return diffusion


def _data() -> ml_collections.ConfigDict:
    data = ml_collections.ConfigDict()
    data.name = ""  # digits, folder, packed, tfds:NAME such as tfds:cifar10, or your own.
    data.dir = ""  # Folder or archive of the images; for TFDS its data directory.
    data.split = "train"  # Also test, all, or a part as in train[:90%].
    data.labels = "prefix"  # A folder's classes: prefix of the file name, or its directory.
    data.test_percent = 0.0  # Share of a folder that is held out as its test split.
    data.exif = True  # Turn images as their EXIF orientation says; the reference does not.
    data.on_bad_image = "skip"  # With a warning; or error.
    data.may_change = False  # Continue a run although files were added to its data, or removed.
    data.cache_mb = 2048  # Data sets up to this size are held in memory, decoded.
    data.resize = False  # Scale and crop images of a fixed size, as of TFDS, to the network's.
    data.standardize = False  # To mean 0 and variance 1, channel by channel.
    data.mean = ()  # Of images in [-1, 1], for data.standardize; empty: measured.
    data.std = ()
    data.random_flip = False  # Mirror half of the images left to right.
    data.num_workers = 2  # Threads that prepare batches.
    return data


def _train() -> ml_collections.ConfigDict:
    train = ml_collections.ConfigDict()
    train.num_steps = config_dict.placeholder(int)  # Required: training always ends.
    train.batch_size = 128  # Over all devices and processes.
    train.microbatch = 0  # Examples per forward pass, over all devices; 0: batch_size.
    train.lr = 1e-4
    train.lr_anneal_steps = 0  # Linear decay to 0 over that many steps; 0: constant.
    train.weight_decay = 0.0
    train.grad_clip = 0.0  # Largest norm of the gradient; 0: no limit.
    train.ema_rate = (0.9999,)  # One averaged copy of the parameters for each rate.
    train.schedule_sampler = "uniform"  # How timesteps are drawn; or loss-second-moment.
    train.label_dropout = 0.0  # Share of labels hidden in training, for guidance when sampling.
    train.low_res_noise = 0.0  # Super-resolution: standard deviation of noise on its input.
    train.seed = 0
    train.data_parallel = "jit"  # Or pmap, where every device is told what to do.
    # The keys below, and num_steps, may change when a run is continued; of data those that say
    # where it is and how it is read: dir, num_workers, cache_mb, may_change.
    train.max_nonfinite_steps = 20  # Stop after that many skipped steps in a row.
    train.shard_optimizer = False  # Spread moments and averages over the devices.
    train.log_every = 100
    train.checkpoint_every = 5000
    train.keep_checkpoints = 3
    train.sample_every = 5000  # Steps between sample grids; 0: none.
    train.num_samples = 64  # Images in such a grid.
    train.sample_respacing = "ddim50"  # Their timesteps, drawn with DDIM.
    return train
