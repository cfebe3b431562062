"""What a train step needs in memory: less where activations are computed again."""

from benchmarks.memory import kept_activations, step_memory
from tests import tiny


def test_checkpointing_keeps_fewer_activations():
    config = tiny.config()
    plain = kept_activations(config)
    config.model.use_checkpoint = True
    assert 0 < kept_activations(config) < plain / 2


def test_microbatches_need_less_than_the_whole_batch():
    config = tiny.config()
    whole, single = (step_memory(config, 64, microbatch)["step"] for microbatch in (0, 8))
    assert single < whole
