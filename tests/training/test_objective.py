"""What the train step relies on, of every objective that there is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iddpm_jax import diffusion as dm
from iddpm_jax.training.objective import ContinuousObjective, DiscreteObjective

SHAPE = (64, 2, 2, 1)


def _discrete(loss_type="rescaled_mse"):
    d = dm.make_diffusion(
        dm.beta_schedule("cosine", 20),
        mean_type="epsilon",
        var_type="learned_range",
        loss_type=loss_type,
    )
    return DiscreteObjective(d, dm.timestep_sampler("uniform", 20))


OBJECTIVES = {
    "hybrid": _discrete(),
    "vlb": _discrete("rescaled_kl"),
    "continuous": ContinuousObjective(dm.make_continuous("offset_cosine", "l1")),
}


def _draw(objective, seed=0):
    state = objective.timestep_sampler.init()
    return objective.draw(state, lambda stream: dm.stream(seed, stream), SHAPE)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_draw_gives_times_below_their_number_and_an_entry_for_each_example(name):
    objective = OBJECTIVES[name]
    drawn = _draw(objective)
    assert {value.shape[0] for value in drawn.values()} == {SHAPE[0]}
    assert np.all((drawn["t"] >= 0) & (drawn["t"] < objective.num_timesteps))
    # Quarters of the range, as the log has them, are all met.
    assert set(np.asarray(4 * drawn["t"] // objective.num_timesteps)) == {0, 1, 2, 3}
    assert np.any(drawn["noise"] != _draw(objective, seed=1)["noise"])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_loss_names_are_the_keys_of_losses(name):
    objective = OBJECTIVES[name]
    channels = 1 if name == "continuous" else 2
    calls = []

    def model_fn(x_t, timestep):
        calls.append(timestep)
        return jnp.zeros((*x_t.shape[:-1], channels))

    losses = objective.losses(model_fn, {"image": jnp.zeros(SHAPE), **_draw(objective)})
    assert tuple(losses) == objective.loss_names()
    assert all(loss.shape == SHAPE[:1] for loss in losses.values())
    assert [timestep.shape for timestep in calls] == [SHAPE[:1]]


def test_losses_of_a_discrete_process_are_its_training_losses():
    objective = _discrete()
    drawn = _draw(objective)
    image = jax.random.uniform(jax.random.key(1), SHAPE, minval=-1, maxval=1)

    def model_fn(x_t, timestep):
        return jnp.concatenate([x_t, x_t], axis=-1)

    expected = dm.training_losses(objective.process, model_fn, image, drawn["t"], drawn["noise"])
    losses = objective.losses(model_fn, {"image": image, **drawn})
    jax.tree.map(np.testing.assert_array_equal, losses, expected)


def test_is_bound_says_which_losses_have_no_measure():
    assert [name for name, objective in OBJECTIVES.items() if objective.is_bound] == ["vlb"]
