import dataclasses
import functools
import types

import jax.numpy as jnp
import numpy as np
import pytest

from iddpm_jax import diffusion, models
from iddpm_jax.sampling import generator as gen
from iddpm_jax.sampling.inputs import Inputs, in_turn
from tests import tiny
from tests.diffusion.test_samplers import heun_like_step

CLASSES = 3


@functools.cache
def _network():
    model = models.UNet(
        model_channels=32,
        out_channels=2,
        num_res_blocks=1,
        attention_resolutions=(),
        channel_mult=(1,),
        num_classes=CLASSES + 1,
        # An addition before a norm of one channel a group would cancel.
        use_scale_shift_norm=True,
        in_channels=1,
    )
    return model, tiny.random_params(model, scale=0.2, seed=3)


@functools.cache
def _generator(sampler="ddpm", eta=0.0, null_label=None, devices=1, **options):
    model, params = _network()
    d = diffusion.make_diffusion(
        diffusion.beta_schedule("cosine", 100),
        # Images then are what the network says, and not black and white for a random one.
        mean_type="x_start",
        var_type="learned_range",
        loss_type="mse",
        keep_timesteps=diffusion.space_timesteps(100, "10"),
    )
    return gen.Generator(
        d=d,
        model=model,
        params=params,
        image_shape=(4, 4, 1),
        mesh=tiny.mesh(devices),
        sampler=sampler,
        options={"eta": eta} if eta else {},
        null_label=null_label,
        **options,
    )


def _inputs(*labels):
    return Inputs(labels=in_turn(np.asarray(labels, np.int32)))


def _draw(generator, count=6, batch_size=6, seed=0, guidance=1.0, labels=(0, 1, 2)):
    generator = dataclasses.replace(generator, batch_size=batch_size, guidance=guidance)
    batches = gen.draw_batches(generator, count, seed, _inputs(*labels))
    return np.concatenate([np.asarray(images) for _, _, images in batches])


@pytest.mark.parametrize("sampler", list(diffusion.SAMPLERS))
def test_draw_batches_gives_the_same_image_for_any_batch_size(sampler):
    whole = _draw(_generator(sampler))
    assert whole.shape == (6, 4, 4, 1)
    assert whole.dtype == np.uint8
    assert len(np.unique(whole.reshape(6, -1), axis=0)) == 6
    for batch_size in (1, 4):
        np.testing.assert_array_equal(whole, _draw(_generator(sampler), batch_size=batch_size))


def test_draw_batches_gives_the_same_image_on_any_number_of_devices():
    one = _draw(_generator())
    for devices in (2, 8):
        other = _draw(_generator(devices=devices), batch_size=4)
        assert np.abs(one.astype(int) - other).max() <= 1


def test_draw_batches_takes_seed_and_labels():
    images = _draw(_generator())
    assert (images != _draw(_generator(), seed=1)).any()
    relabelled = _draw(_generator(), labels=(0, 2, 2))
    changed = (images != relabelled).reshape(6, -1).any(axis=1)
    assert changed.tolist() == [False, True, False, False, True, False]


def test_generator_compiles_once_for_labels_guidance_seed_and_number():
    counts = []

    def model_apply(variables, x, timesteps, y, low_res):
        counts.append(1)  # Runs when traced only.
        return jnp.concatenate([x, x], axis=-1) * (1 + y).reshape(-1, 1, 1, 1).astype(x.dtype)

    class Network:
        num_classes = CLASSES
        apply = staticmethod(model_apply)

    base = dataclasses.replace(_generator("ddim"), model=Network(), params={}, null_label=CLASSES)

    def draw(seed, first, labels, guidance):
        generator = dataclasses.replace(base, guidance=guidance)
        for _ in generator.trajectory(seed, np.arange(first, first + 2), _inputs(*labels)):
            pass

    for seed, labels, guidance in ((0, [0, 1], 2.0), (5, [2, 2], 1.0), (6, [1, 0], 7.5)):
        draw(seed, 0, labels, guidance)
    traces = len(counts)
    draw(9, 2, [0, 0], 3.0)
    # Twice for each trace: with the label and without. `scan` may trace its body again.
    assert len(counts) == traces <= 4


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("steps", "count"),
    [
        (1, 1),
        (3, 3),
        (10, 10),
        (22, 11),
        (25, 5),
        (26, 13),
        (33, 11),
        (37, 37),
        (50, 10),
        (998, 499),
    ],
)
def test_parts_are_equal_and_several(steps, count):
    d = types.SimpleNamespace(num_timesteps=steps)
    parts = dataclasses.replace(_generator(), d=d).parts()
    assert len(parts) == count
    assert {len(part) for part in parts} == {steps // count}
    np.testing.assert_array_equal(np.concatenate(parts), np.arange(steps)[::-1])


def test_second_stage_draws_other_noise_from_the_same_seed():
    base = _generator("ddim")
    other = dataclasses.replace(base, x_T_stream=diffusion.Stream.SECOND_STAGE_X_T)
    starts = []
    for generator in (base, other):
        carry, *_ = generator.trajectory(0, np.arange(2), _inputs(0))
        starts.append(np.asarray(carry[0]))
    assert np.abs(np.corrcoef(starts[0].ravel(), starts[1].ravel())[0, 1]) < 0.5


def test_guidance_of_one_is_the_conditional_model_exactly():
    plain = _draw(_generator("ddim"))
    np.testing.assert_array_equal(plain, _draw(_generator("ddim", null_label=CLASSES)))
    assert (plain != _draw(_generator("ddim", null_label=CLASSES), guidance=4.0)).any()


def test_generator_draws_with_a_sampler_that_only_its_table_knows(monkeypatch):
    monkeypatch.setitem(diffusion.SAMPLERS, "heun-like", heun_like_step)
    images = _draw(_generator("heun-like"), count=2, batch_size=2)
    assert images.shape == (2, 4, 4, 1)
    assert (images != _draw(_generator("ddim"), count=2, batch_size=2)).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "plms"}, r"unknown sampler 'plms'.*ddpm, ddim, dpm-solver\+\+"),
        ({"sampler": "ddpm", "eta": 0.5}, "eta=0.5 is an option of ddim, not of ddpm"),
        ({"sampler": "ddim", "eta": 1.5}, r"eta=1.5 must be in \[0, 1\]"),
    ],
)
def test_generator_refuses_what_no_sampler_does(options, message):
    with pytest.raises(ValueError, match=message):
        _generator(**options)


def test_draw_batches_of_a_second_equal_generator_compiles_nothing():
    def draw():
        generator = dataclasses.replace(_generator("ddim", null_label=CLASSES), options={})
        return _draw(generator, batch_size=4, guidance=2.0)

    first = draw()
    with tiny.compilations() as compilations:
        np.testing.assert_array_equal(first, draw())
    assert compilations == []


def test_draw_batches_starts_from_the_noise_that_is_given():
    generator = _generator("ddim")
    keys = diffusion.stream_keys(7, diffusion.Stream.X_T, np.arange(2))
    noise = np.asarray(diffusion.initial_noise(keys, (4, 4, 1)))
    inputs = dataclasses.replace(_inputs(0), x_T=in_turn(noise))
    given = gen.draw_all(generator, 2, 0, inputs)
    np.testing.assert_array_equal(given, _draw(generator, 2, 2, seed=7, labels=(0,)))
    assert (given != _draw(generator, 2, 2, labels=(0,))).any()
