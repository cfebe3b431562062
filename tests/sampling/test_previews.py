import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from iddpm_jax import diffusion, models
from iddpm_jax.sampling.previews import Preview
from tests import tiny


def _preview(num_classes, num_samples, class_names=(), devices=1):
    model = models.UNet(
        model_channels=32,
        out_channels=2,
        num_res_blocks=1,
        attention_resolutions=(),
        channel_mult=(1,),
        num_classes=num_classes or None,
        use_scale_shift_norm=True,
        in_channels=1,
    )
    betas = diffusion.beta_schedule("cosine", 4)
    types = {"mean_type": "x_start", "var_type": "learned_range", "loss_type": "mse"}
    d = diffusion.make_diffusion(betas, **types)
    return Preview(
        d, model, (8, 8, 1), num_classes, num_samples, class_names, 0, tiny.mesh(devices)
    )


@pytest.mark.parametrize(
    ("classes", "samples", "rows", "columns"),
    [(10, 100, 10, 10), (10, 64, 10, 6), (2, 64, 2, 32), (1000, 64, 8, 8), (100, 64, 8, 8)],
)
def test_preview_gives_each_class_a_row(classes, samples, rows, columns):
    labels, per_row, names = _preview(classes, samples).layout()
    assert (len(names), per_row, len(labels)) == (rows, columns, rows * columns)
    assert labels.min() == 0
    assert labels.max() == classes - 1
    assert np.all(labels.reshape(rows, columns) == labels[::columns, None])


def test_preview_of_an_unconditional_model_is_a_square():
    assert _preview(0, 64).layout() == (None, 8, ())


def test_preview_draws_the_same_on_one_and_eight_devices():
    one = _preview(2, 16, ("a", "b"))
    eight = dataclasses.replace(one, mesh=tiny.mesh(8))
    params = tiny.random_params(one.model, scale=0.2, seed=0)
    pictures = [preview.make()(params) for preview in (one, eight)]
    assert pictures[0].dtype == np.uint8
    assert pictures[0].shape[0] == 2 * 34 + 2
    assert np.abs(pictures[0].astype(int) - pictures[1]).max() <= 1
    rows = [pictures[0][start : start + 32, -8 * 34 :] for start in (2, 36)]
    assert (rows[0] != rows[1]).any()


class _Flat:
    """A network, quickly compiled, whose x_0 is as bright as its label says."""

    @staticmethod
    def apply(variables, x, timesteps, y, low_res):
        x_0 = x * 0 + 0.1 * variables["params"] * (1.0 + y).reshape(-1, 1, 1, 1)
        return jnp.concatenate([x_0, x], axis=-1)


def test_preview_compiles_once_and_draws_the_same_in_chunks():
    whole = dataclasses.replace(_preview(2, 16), model=_Flat())
    chunked = dataclasses.replace(whole, batch_size=5)
    first = chunked.make()(np.float32(1))
    with tiny.compilations() as compilations:
        np.testing.assert_array_equal(first, chunked.make()(np.float32(1)))
    assert compilations == []
    np.testing.assert_array_equal(first, whole.make()(np.float32(1)))


def test_preview_is_guided_where_there_is_a_null_label():
    plain = dataclasses.replace(_preview(2, 4), model=_Flat())
    guided = [
        dataclasses.replace(plain, null_label=9, guidance=weight).make()(np.float32(1))
        for weight in (1.0, 2.0)
    ]
    np.testing.assert_array_equal(plain.make()(np.float32(1)), guided[0])
    # Away from the null label, which is brighter.
    assert guided[1].sum() < guided[0].sum()
