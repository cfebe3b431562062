import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from iddpm_jax import diffusion, models
from iddpm_jax.sampling.generator import Generator
from iddpm_jax.sampling.previews import class_layout, class_preview, super_resolution_preview
from tests import tiny


def _generator(model, devices=1, var_type="learned_range", **options):
    betas = diffusion.beta_schedule("cosine", 4)
    return Generator(
        d=diffusion.make_diffusion(betas, mean_type="x_start", var_type=var_type, loss_type="mse"),
        model=model,
        params=None,
        image_shape=(8, 8, 1),
        mesh=tiny.mesh(devices),
        sampler="ddim",
        **options,
    )


@pytest.mark.parametrize(
    ("classes", "samples", "rows", "columns"),
    [(10, 100, 10, 10), (10, 64, 10, 6), (2, 64, 2, 32), (1000, 64, 8, 8), (100, 64, 8, 8)],
)
def test_class_layout_gives_each_class_a_row(classes, samples, rows, columns):
    count, labels, per_row, names = class_layout(samples, classes, ())
    assert (len(names), per_row, len(labels), count) == (rows, columns, *[rows * columns] * 2)
    assert labels.min() == 0
    assert labels.max() == classes - 1
    assert np.all(labels.reshape(rows, columns) == labels[::columns, None])


def test_class_layout_of_an_unconditional_model_is_a_square():
    assert class_layout(64, 0, ()) == (64, None, 8, ())


def test_class_preview_draws_the_same_on_one_and_eight_devices():
    model = models.UNet(
        model_channels=32,
        out_channels=2,
        num_res_blocks=1,
        attention_resolutions=(),
        channel_mult=(1,),
        num_classes=2,
        use_scale_shift_norm=True,
        in_channels=1,
    )
    params = tiny.random_params(model, scale=0.2, seed=0)
    layout = class_layout(16, 2, ("a", "b"))
    pictures = [class_preview(_generator(model, n), layout, seed=0)(params) for n in (1, 8)]
    assert pictures[0].dtype == np.uint8
    assert pictures[0].shape[0] == 2 * 34 + 2
    assert np.abs(pictures[0].astype(int) - pictures[1]).max() <= 1
    rows = [pictures[0][start : start + 32, -8 * 34 :] for start in (2, 36)]
    assert (rows[0] != rows[1]).any()


class _Flat:
    """A network, quickly compiled, whose x_0 is as bright as its label says."""

    num_classes = 2

    @staticmethod
    def apply(variables, x, timesteps, y, low_res):
        x_0 = x * 0 + 0.1 * variables["params"] * (1.0 + y.astype(x.dtype)).reshape(-1, 1, 1, 1)
        return jnp.concatenate([x_0, x], axis=-1)


def _flat(num_samples, **options):
    """The picture of a quickly compiled network, drawn with these options of the generator."""
    layout = class_layout(num_samples, 2, ())
    return class_preview(_generator(_Flat(), **options), layout, seed=0)(np.float32(1))


def test_class_preview_compiles_once_and_draws_the_same_in_chunks():
    model = _Flat()
    layout = class_layout(16, 2, ())
    chunked = class_preview(_generator(model, batch_size=5), layout, seed=0)
    first = chunked(np.float32(1))
    with tiny.compilations() as compilations:
        np.testing.assert_array_equal(first, chunked(np.float32(1)))
    assert compilations == []
    whole = class_preview(_generator(model), layout, seed=0)
    np.testing.assert_array_equal(first, whole(np.float32(1)))


def test_class_preview_is_guided_where_there_is_a_null_label():
    plain = _flat(4)
    guided = [_flat(4, null_label=9, guidance=weight) for weight in (1.0, 2.0)]
    np.testing.assert_array_equal(plain, guided[0])
    # Away from the null label, which is brighter.
    assert guided[1].sum() < guided[0].sum()


class Enlarging:
    """A network, quickly compiled, whose x_0 is the low-resolution image made larger."""

    num_classes = None

    @staticmethod
    def apply(variables, x, timesteps, y, low_res):
        return variables["params"] * models.upsample_bilinear(low_res, x.shape)


def test_super_resolution_preview_compiles_once_and_draws_the_same_in_chunks():
    originals = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1)).astype(np.uint8)
    generator = _generator(Enlarging(), var_type="fixed_large")
    whole, chunked = (
        super_resolution_preview(
            dataclasses.replace(generator, batch_size=batch_size),
            models.LowRes(4, noise=0.1),
            originals,
            None,
            seed=0,
        )
        for batch_size in (0, 2)
    )
    first = chunked(np.float32(1))
    with tiny.compilations() as compilations:
        np.testing.assert_array_equal(first, chunked(np.float32(1)))
    assert compilations == []
    assert np.abs(first.astype(int) - whole(np.float32(1))).max() <= 1
