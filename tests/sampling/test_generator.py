import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
import pytest

from iddpm_jax import diffusion, models
from iddpm_jax.sampling import generator as gen
from tests import tiny

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
def _generator(sampler="ddpm", eta=0.0, null_label=None, devices=1):
    model, params = _network()
    d = diffusion.make_diffusion(
        diffusion.beta_schedule("cosine", 100),
        # Images then are what the network says, and not black and white for a random one.
        mean_type="x_start",
        var_type="learned_range",
        loss_type="mse",
        keep_timesteps=diffusion.space_timesteps(100, "10"),
    )
    mesh = tiny.mesh(devices)
    return gen.Generator(d, model, params, (4, 4, 1), sampler, eta, null_label, mesh)


def _draw(generator, count=6, batch_size=6, seed=0, guidance=1.0, labels=(0, 1, 2)):
    rule = lambda indices: np.asarray(labels, np.int32)[indices % len(labels)]  # noqa: E731
    batches = gen.draw_batches(
        generator,
        count,
        rule,
        seed=seed,
        guidance=guidance,
        batch_size=gen.batch_size_for(count, batch_size, generator.mesh),
    )
    return np.concatenate([np.asarray(images) for _, _, images in batches])


@pytest.mark.parametrize("sampler", list(gen.SAMPLERS))
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
        return jnp.concatenate([x, x], axis=-1) * (1 + y).reshape(-1, 1, 1, 1)

    class Network:
        apply = staticmethod(model_apply)

    base = _generator("ddim", null_label=CLASSES)
    generator = gen.Generator(
        base.d, Network(), {}, base.image_shape, "ddim", 0.0, CLASSES, base.mesh
    )
    draw = generator.compile()
    for seed, labels, guidance in ((0, [0, 1], 2.0), (5, [2, 2], 1.0), (6, [1, 0], 7.5)):
        for _ in draw(seed, np.arange(2), np.asarray(labels, np.int32), guidance):
            pass
    traces = len(counts)
    for _ in draw(9, np.arange(2, 4), np.zeros(2, np.int32), 3.0):
        pass
    # Twice for each trace: with the label and without. `scan` may trace its body again.
    assert len(counts) == traces <= 4


def test_second_stage_draws_other_noise_from_the_same_seed():
    base = _generator("ddim")
    other = dataclasses.replace(base, x_T_stream=diffusion.Stream.SECOND_STAGE_X_T)
    starts = []
    for generator in (base, other):
        carry, *_ = generator.compile()(0, np.arange(2), np.zeros(2, np.int32), 1.0)
        starts.append(np.asarray(carry[0]))
    assert np.abs(np.corrcoef(starts[0].ravel(), starts[1].ravel())[0, 1]) < 0.5


def test_guidance_of_one_is_the_conditional_model_exactly():
    plain = _draw(_generator("ddim"))
    np.testing.assert_array_equal(plain, _draw(_generator("ddim", null_label=CLASSES)))
    assert (plain != _draw(_generator("ddim", null_label=CLASSES), guidance=4.0)).any()


def test_classifier_free_guidance_extrapolates_the_mean_half():
    conditional, unconditional = jnp.array([1.0, 5.0]), jnp.array([0.5, 9.0])
    for weight, mean in ((0.0, 0.5), (1.0, 1.0), (3.0, 2.0)):
        guided = gen.classifier_free_guidance(conditional, unconditional, weight, channels=1)
        np.testing.assert_array_equal(guided, [mean, 5.0])


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
        generator = dataclasses.replace(_generator("ddim", null_label=CLASSES), eta=0.0)
        return _draw(generator, batch_size=4, guidance=2.0)

    first = draw()
    with tiny.compilations() as compilations:
        np.testing.assert_array_equal(first, draw())
    assert compilations == []


def test_draw_batches_starts_from_the_noise_that_is_given():
    generator = _generator("ddim")
    keys = diffusion.stream_keys(7, diffusion.Stream.X_T, np.arange(2))
    noise = np.asarray(diffusion.initial_noise(keys, (4, 4, 1)))
    options = {"seed": 0, "guidance": 1.0, "batch_size": 2}
    given = gen.draw_all(
        generator, 2, lambda i: np.zeros(len(i), np.int32), x_T_of=lambda i: noise[i], **options
    )
    np.testing.assert_array_equal(given, _draw(generator, 2, 2, seed=7, labels=(0,)))
    assert (given != _draw(generator, 2, 2, labels=(0,))).any()
