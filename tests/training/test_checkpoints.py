import jax
import numpy as np
import optax
import pytest

from iddpm_jax.training import checkpoints as ck
from iddpm_jax.training import sharding
from tests import tiny


def _abstract(devices=1):
    shapes = jax.eval_shape(tiny.init(devices), jax.random.key(0))
    return ck.abstract_on(shapes, sharding.replicated(tiny.mesh(devices)))


@pytest.fixture(scope="module")
def state():
    return tiny.run_steps(2)


@pytest.fixture
def saved(tmp_path, state):
    checkpoints = ck.Checkpoints(tmp_path, keep=2)
    checkpoints.save(state, {"next_index": 7}, {"train": {"lr": 0.1}})
    checkpoints.close()
    return tmp_path


def test_checkpoints_restore_every_leaf_bitwise(saved, state):
    checkpoints = ck.Checkpoints(saved, keep=2)
    restored, data_state = checkpoints.restore(2, _abstract())
    checkpoints.close()
    assert data_state == {"next_index": 7}
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, restored, state)


def test_checkpoints_restore_a_state_without_averages(tmp_path, state):
    def without(state):
        return state.replace(opt_state=optax.tree.set(state.opt_state, ema={}))

    checkpoints = ck.Checkpoints(tmp_path, keep=2)
    checkpoints.save(without(state), {}, {})
    restored, _ = checkpoints.restore(2, without(_abstract()))
    checkpoints.close()
    assert restored.ema == {}
    jax.tree.map(np.testing.assert_array_equal, restored, without(state))


def test_checkpoints_are_separate_items(saved):
    items = {path.name for path in (saved / "checkpoints" / "2").iterdir() if path.is_dir()}
    assert {"params", "ema", "opt", "counters", "data", "meta"} <= items


def test_checkpoints_restore_onto_other_devices(saved, state):
    checkpoints = ck.Checkpoints(saved, keep=2)
    restored, _ = checkpoints.restore(2, _abstract(devices=8))
    checkpoints.close()
    assert len(restored.step.sharding.device_set) == 8
    # The step takes it as it is.
    assert int(tiny.train_step(8)(restored, tiny.batch(2, 8)).step) == 3


def test_checkpoints_keep_the_newest(tmp_path, state):
    checkpoints = ck.Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        checkpoints.save(state.replace(step=np.int32(step)), {}, {})
    checkpoints.save(state.replace(step=np.int32(3)), {}, {})
    assert checkpoints.steps() == [2, 3]
    checkpoints.close()


def test_checkpoints_refuse_a_damaged_one(saved):
    for file in (saved / "checkpoints" / "2" / "params").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    checkpoints = ck.Checkpoints(saved, keep=2)
    with pytest.raises(ck.CheckpointError, match=r"checkpoints/2 cannot be read"):
        checkpoints.restore(2, _abstract())
    checkpoints.close()


def test_checkpoints_refuse_another_format(saved, monkeypatch):
    monkeypatch.setattr(ck, "FORMAT_VERSION", 2)
    checkpoints = ck.Checkpoints(saved, keep=2)
    with pytest.raises(ck.CheckpointError, match="format version 1, this program reads version 2"):
        checkpoints.restore(2, _abstract())
    checkpoints.close()
