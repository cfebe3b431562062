import numpy as np
import pytest

from iddpm_jax import diffusion
from iddpm_jax.errors import UsageError
from iddpm_jax.evaluation.step_costs import mean_costs
from iddpm_jax.files.shards import Shards


def test_mean_costs_refuses_costs_of_other_sizes(tmp_path):
    shards = Shards(tmp_path, 4)
    costs = diffusion.Costs(np.ones((3, 3)), np.ones((3, 3)), np.ones(3))
    shards.write(0, 4, {**costs._asdict(), "count": np.float64(2)})
    np.testing.assert_array_equal(mean_costs(shards, 3).prior, np.full(3, 0.5))
    with pytest.raises(UsageError, match="delete dp_respacing/shards"):
        mean_costs(shards, 4)
