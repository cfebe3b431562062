import jax
import numpy as np
import pytest

from iddpm_jax import diffusion as dm
from iddpm_jax.data.image_batches import image_batches
from iddpm_jax.errors import UsageError
from iddpm_jax.evaluation.bound import check_part, make_bound, summarise, timestep_parts
from tests import tiny

COUNT = 11


@pytest.fixture(scope="module")
def parts():
    """Process, network, parameters and a loader of eleven images."""
    run = tiny.training()
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (COUNT, 8, 8, 1), dtype=np.uint8)
    labels = random.integers(0, 10, COUNT)
    params = tiny.random_params(run.model, 0.05, seed=1)

    def load(indices):
        return {"image": images[indices], "label": labels[indices]}

    return run.objective.process, run.model, params, load


def _summary(parts, devices, size):
    d, model, params, load = parts
    bound = make_bound(d, model, params, tiny.mesh(devices), seed=3)
    return summarise(map(bound, image_batches(load, np.arange(COUNT), size)))


@pytest.fixture(scope="module")
def whole(parts):
    return _summary(parts, 1, COUNT)


@pytest.mark.parametrize(("devices", "size"), [(1, 4), (8, 8)])
def test_bound_does_not_depend_on_batches_or_devices(parts, whole, devices, size):
    summary = _summary(parts, devices, size)
    assert summary.num_images == COUNT
    for a, b in zip(summary, whole, strict=True):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), a, b)


def test_bound_is_the_mean_of_the_loop_over_images(parts, whole):
    d, model, params, load = parts
    batch = next(image_batches(load, np.arange(COUNT), COUNT))
    keys = dm.stream_keys(3, dm.Stream.NLL_NOISE, batch.indices)
    terms = dm.bpd_loop(
        d, lambda x, t: model.apply({"params": params}, x, t, y=batch.labels), batch.images, keys
    )
    total = np.asarray(terms["total_bpd"], np.float64)
    np.testing.assert_allclose(whole.bits_per_dim, total.mean(), rtol=1e-5)
    np.testing.assert_allclose(whole.standard_error, total.std(ddof=1) / COUNT**0.5, rtol=1e-4)
    np.testing.assert_allclose(whole.decoder_bpd, terms["vb"][:, -1].mean(), rtol=1e-5)
    parts_sum = whole.prior_bpd + whole.kl_bpd + whole.decoder_bpd
    np.testing.assert_allclose(parts_sum, whole.bits_per_dim, rtol=1e-12)
    for name, values in whole.terms.items():
        np.testing.assert_allclose(values, terms[name].mean(axis=0), rtol=1e-4, err_msg=name)


def test_bound_compiles_once_for_all_batches(parts):
    d, model, params, load = parts
    traced = []

    class Network:
        num_classes = model.num_classes

        @staticmethod
        def apply(variables, x, timesteps, y, low_res):
            traced.append(1)  # Runs when traced only.
            return model.apply(variables, x, timesteps, y=y, low_res=low_res)

    bound = make_bound(d, Network(), params, tiny.mesh(1), seed=3)
    batches = list(image_batches(load, np.arange(COUNT), 4))
    shares = []
    bound(batches[0], shares.append)
    assert shares == pytest.approx([0.1] * 10)  # So often it says that it is alive.
    before = len(traced)
    assert before
    for batch in batches[1:]:
        bound(batch)
    assert len(traced) == before


@pytest.mark.parametrize(("steps", "shape"), [(1000, (10, 100)), (997, (10, 100)), (7, (7, 1))])
def test_timestep_parts_are_all_timesteps_in_parts_of_one_size(steps, shape):
    parts = timestep_parts(steps)
    assert (parts.shape, parts.dtype) == (shape, np.int32)
    assert parts.ravel()[:steps].tolist() == list(range(steps))[::-1]
    assert not parts.ravel()[steps:].any()


def test_bound_is_the_same_where_the_last_part_is_filled_up(parts):
    """Eleven steps go in six parts of two."""
    _, model, params, load = parts
    betas = dm.beta_schedule("cosine", 11)
    kinds = {"mean_type": "epsilon", "var_type": "learned_range", "loss_type": "rescaled_mse"}
    d = dm.make_diffusion(betas, **kinds)
    batch = next(image_batches(load, np.arange(4), 4))
    shares = []
    part = make_bound(d, model, params, tiny.mesh(1), seed=3)(batch, shares.append)
    assert len(shares) == 6
    check_part(part, 4, 11)
    keys = dm.stream_keys(3, dm.Stream.NLL_NOISE, batch.indices)

    @jax.jit
    def whole(images, keys):
        model_fn = lambda x, t: model.apply({"params": params}, x, t, y=batch.labels)  # noqa: E731
        return dm.bpd_loop(d, model_fn, images, keys)

    terms = whole(batch.images, keys)
    np.testing.assert_allclose(part["total"], terms["total_bpd"], rtol=1e-6)
    np.testing.assert_allclose(part["vb"], np.sum(terms["vb"], axis=0), rtol=1e-6)
    assert part["vb"].shape == (11,)


def test_check_part_refuses_other_arrays(parts):
    part = dict.fromkeys(("total", "prior", "decoder"), np.zeros(3))
    part |= dict.fromkeys(("vb", "mse", "xstart_mse"), np.zeros(10))
    check_part(part, 4, 10)
    wrong = (
        {"total": np.zeros(5), "prior": np.zeros(5), "decoder": np.zeros(5)},
        {"prior": np.zeros(2)},
        {"vb": np.zeros(11)},
        {"vb": np.zeros(10, np.float32)},
        {"total": np.zeros((3, 1))},
    )
    for change in wrong:
        with pytest.raises(UsageError, match="is not that of a bound of 10 terms"):
            check_part(part | change, 4, 10)
    with pytest.raises(UsageError):
        check_part({}, 4, 10)
