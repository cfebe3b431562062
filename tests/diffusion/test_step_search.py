import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iddpm_jax import diffusion as dm

T, BATCH = 12, 3


def _network(channels):
    """Something that depends on the image and on the timestep, with a variance where asked."""

    def model_fn(x_t, timestep):
        mean = jnp.tanh(0.7 * x_t + 0.002 * timestep[:, None, None, None])
        return jnp.concatenate([mean, 0.9 * jnp.sin(x_t)], axis=-1)[..., :channels]

    return model_fn


def _process(mean_type, var_type, keep=None):
    return dm.make_diffusion(
        dm.beta_schedule("cosine", T),
        mean_type=mean_type,
        var_type=var_type,
        loss_type="mse",
        rescale_timesteps=True,
        keep_timesteps=keep,
    )


@pytest.fixture(scope="module")
def images():
    levels = np.random.default_rng(0).integers(0, 256, (BATCH, 4, 4, 2))
    return (levels / 127.5 - 1).astype(np.float32)


@pytest.fixture(scope="module")
def noises():
    """[T, B, H, W, C], by t."""
    return np.random.default_rng(1).standard_normal((T, BATCH, 4, 4, 2)).astype(np.float32)


def _costs(d, network, images, noises, weights):
    tables = dm.pair_tables(dm.beta_schedule("cosine", T))

    @jax.jit
    def row(t, noise):
        return dm.transition_costs(d, tables, network, images, t, noise, weights)

    rows = [row(np.int32(t), noises[t]) for t in range(T)]
    transition, decoder = (np.asarray(x, np.float64) for x in zip(*rows, strict=True))
    prior = np.asarray(dm.prior_costs(d, images, weights), np.float64)
    return dm.Costs(transition, decoder, prior)


@pytest.mark.parametrize("mean_type", ["epsilon", "x_start"])
@pytest.mark.parametrize("var_type", ["learned_range", "fixed_small", "fixed_large"])
def test_transition_costs_of_a_path_are_the_bound_of_the_respaced_process(
    images, noises, mean_type, var_type
):
    network = _network(4 if var_type == "learned_range" else 2)
    costs = _costs(_process(mean_type, var_type), network, images, noises, np.ones(BATCH))
    for kept in ([0, 11], [2, 5, 6, 10], list(range(T))):
        d = _process(mean_type, var_type, np.array(kept))
        bound = dm.bpd_loop(d, network, images, noises=noises[kept[::-1]])["total_bpd"].sum()
        path = costs.prior[kept[-1]] + costs.decoder[kept[0], kept[1]]
        path += sum(costs.transition[t, s] for s, t in itertools.pairwise(kept))
        np.testing.assert_allclose(path, bound, rtol=2e-5)


def test_transition_costs_leave_out_images_that_do_not_count(images, noises):
    d, network = _process("epsilon", "learned_range"), _network(4)
    some = _costs(d, network, images, noises, np.array([1.0, 0.0, 1.0]))
    alone = _costs(d, network, images[::2], noises[:, ::2], np.ones(2))
    for a, b in zip(some, alone, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_best_timesteps_are_those_of_a_search_through_all_paths():
    random = np.random.default_rng(0)
    total = 8
    costs = dm.Costs(*random.uniform(0, 1, (2, total, total)), random.uniform(0, 1, total))
    bounds, kept = dm.best_timesteps(costs, total)

    def cost(path):
        steps = sum(costs.transition[t, s] for s, t in itertools.pairwise(path))
        return costs.prior[path[-1]] + costs.decoder[path[0], path[1]] + steps

    for count in range(2, total + 1):
        best = min(itertools.combinations(range(total), count), key=cost)
        assert kept[count].tolist() == [*best, *[-1] * (total - count)]
        assert bounds[count] == pytest.approx(cost(best), rel=1e-12)
    assert np.isinf(bounds[:2]).all()


def test_best_timesteps_refuses_more_steps_than_there_are():
    costs = dm.Costs(np.zeros((3, 3)), np.zeros((3, 3)), np.zeros(3))
    with pytest.raises(ValueError, match="max_steps=4 must be from 2 to 3"):
        dm.best_timesteps(costs, 4)


def test_check_searchable_refuses_outputs_that_are_of_one_step_only():
    dm.check_searchable(_process("epsilon", "learned_range"))
    for types in (("x_prev", "fixed_small"), ("epsilon", "learned")):
        with pytest.raises(ValueError, match="ties the network to the step"):
            dm.check_searchable(_process(*types))
