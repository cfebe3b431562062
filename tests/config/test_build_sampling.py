import numpy as np

from iddpm_jax.config.build_model import build_model
from iddpm_jax.config.build_sampling import build_preview
from iddpm_jax.data import InMemorySource
from tests import tiny


def test_build_preview_of_super_resolution_spreads_over_all_of_the_data():
    config = tiny.config()
    config.model.small_size = 4
    shown = []

    class Source(InMemorySource):
        def batch(self, indices):
            shown.append(np.asarray(indices).tolist())
            return super().batch(indices)

    source = Source(np.zeros((40, 8, 8, 1), np.uint8), np.zeros(40, np.int32))
    for config.train.num_samples in (64, 4):
        build_preview(config, build_model(config), source, tiny.mesh(1))
    assert shown == [list(range(40)), [0, 10, 20, 30]]
