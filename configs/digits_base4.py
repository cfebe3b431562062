"""Handwritten digits at 4 × 4, class-conditional: the first stage of a cascade.

The demo's recipe on means of 2 × 2 pixels; `configs/digits_upsample.py` is the second stage.

    python main.py --config=configs/digits_base4.py --workdir=runs/digits_base4

Hardware: two CPU cores are enough. Measured on two busy cores of an AMD EPYC, float32: 2 min 57 s
in all, 30 steps/s, loss 0.153.
"""

from iddpm_jax.recipes import digits


def get_config():
    config = digits.get_config()
    config.model.image_size = 4
    config.model.attention_resolutions = (2,)
    config.train.num_steps = 2500
    return config
