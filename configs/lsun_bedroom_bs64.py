"""LSUN bedrooms 256 × 256, unconditional: linear schedule, learned sigmas, batches of 64.

The recipe of OpenAI's lsun_uncond_100M_2400K_bs64.pt: 2.4 M iterations at learning rate 2e-5. The
batch size is that of the file's name; the flags published beside it say 128. 114 M parameters.

    python main.py --config=configs/lsun_bedroom_bs64.py --workdir=runs/lsun_bs64 \\
        --config.data.dir=FOLDER_OF_IMAGES

Hardware: accelerators. Measured: nothing yet; it needs more than was at hand. The
published weights are imported with `python -m iddpm_jax.import_torch`.
"""

from iddpm_jax.recipes import lsun_bedroom_bs128


def get_config():
    config = lsun_bedroom_bs128.get_config()
    config.train.num_steps = 2_400_000
    config.train.batch_size = 64
    config.train.lr = 2e-5
    return config
