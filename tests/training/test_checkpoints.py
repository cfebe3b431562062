import jax
import numpy as np
import optax
import pytest

from iddpm_jax.training import checkpoints as ck
from tests import tiny


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
    restored, data_state = checkpoints.restore(2, tiny.abstract_state(1))
    checkpoints.close()
    assert data_state == {"next_index": 7}
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, restored, state)


def test_checkpoints_restore_a_state_without_averages(tmp_path, state):
    def without(state):
        return state.replace(opt_state=optax.tree.set(state.opt_state, ema={}))

    checkpoints = ck.Checkpoints(tmp_path, keep=2)
    checkpoints.save(without(state), {}, {})
    restored, _ = checkpoints.restore(2, without(tiny.abstract_state(1)))
    checkpoints.close()
    assert restored.ema == {}
    jax.tree.map(np.testing.assert_array_equal, restored, without(state))


def test_checkpoints_are_separate_items(saved):
    items = {path.name for path in (saved / "checkpoints" / "2").iterdir() if path.is_dir()}
    assert {"params", "ema", "opt", "counters", "data", "meta"} <= items


def test_checkpoints_restore_onto_other_devices(saved, state):
    checkpoints = ck.Checkpoints(saved, keep=2)
    restored, _ = checkpoints.restore(2, tiny.abstract_state(devices=8))
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
        checkpoints.restore(2, tiny.abstract_state(1))
    checkpoints.close()


def test_checkpoints_refuse_another_format(tmp_path, state, monkeypatch):
    with monkeypatch.context() as future:
        future.setattr(ck, "FORMAT_VERSION", 9)
        _save(tmp_path, state, 2)
    checkpoints = ck.Checkpoints(tmp_path, keep=2)
    with pytest.raises(ck.CheckpointError, match="format version 9, this program reads up to"):
        checkpoints.restore(2, tiny.abstract_state(1))
    checkpoints.close()


def test_checkpoints_read_the_format_before_checksums(tmp_path, state, monkeypatch):
    with monkeypatch.context() as past:
        past.setattr(ck, "FORMAT_VERSION", 1)
        _save(tmp_path, state, 2)
    checkpoints = ck.Checkpoints(tmp_path, keep=2)
    restored, _ = checkpoints.restore(2, tiny.abstract_state(1))
    checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, restored, state)


def _save(workdir, state, *steps, keep=5):
    checkpoints = ck.Checkpoints(workdir, keep=keep)
    for step in steps:
        checkpoints.save(state.replace(step=np.int32(step)), {"next_index": step}, {})
    checkpoints.close()


def _params(workdir, ema="none"):
    return ck.load_params(workdir, ema, tiny.abstract_state(1).params)


def test_checkpoints_notice_a_value_that_is_not_what_was_saved(tmp_path, state, monkeypatch):
    flipped = jax.tree.map(lambda leaf: leaf, state.params)
    bias = np.array(flipped["out_conv"]["bias"])
    bias.view(np.uint8)[0] ^= 1
    flipped["out_conv"]["bias"] = bias
    _save(tmp_path, state, 1)
    # Step 2 is written with the bit flipped, and the checksums of what it should have been.
    right = ck.split(state.replace(step=np.int32(2)))
    of_tree = ck.checksums.of_tree
    with monkeypatch.context() as silent:
        silent.setattr(ck.checksums, "of_tree", lambda tree: of_tree(right["params"]))
        _save(tmp_path, state.replace(params=flipped), 2)
    checkpoints = ck.Checkpoints(tmp_path, keep=5)
    with pytest.raises(ck.CheckpointError, match=r"damaged: in its item params, .*out_conv.*bias"):
        checkpoints.restore(2, tiny.abstract_state(1))
    checkpoints.close()
    params, step = _params(tmp_path)
    assert step == 1
    jax.tree.map(np.testing.assert_array_equal, params, state.params)


@pytest.mark.parametrize("item", ["params", "ema", "opt", "counters", "data", "meta"])
def test_checkpoints_fall_back_where_an_item_is_damaged(tmp_path, state, item):
    _save(tmp_path, state, 1, 2)
    for file in (tmp_path / "checkpoints" / "2" / item).rglob("*"):
        data = bytearray(file.read_bytes()) if file.is_file() else b""
        for place in range(len(data) // 3, len(data), max(len(data) // 7, 1)):
            data[place] ^= 0x10
        if data:
            file.write_bytes(data)
    checkpoints = ck.Checkpoints(tmp_path, keep=5)
    restored, data_state = checkpoints.restore_newest(tiny.abstract_state(1))
    assert data_state == {"next_index": 1}
    jax.tree.map(np.testing.assert_array_equal, restored.params, state.params)
    # The damaged one is out of the way, and kept.
    assert checkpoints.steps() == [1]
    assert [p.name.split("_")[0] for p in (tmp_path / "damaged").iterdir()] == ["2"]
    checkpoints.save(state.replace(step=np.int32(2)), {"next_index": 2}, {})
    assert checkpoints.steps() == [1, 2]
    assert checkpoints.restore_newest(tiny.abstract_state(1))[1] == {"next_index": 2}
    checkpoints.close()


# Orbax leaves reads behind when another one fails.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_checkpoints_never_give_back_other_bits(tmp_path, state):
    """One flipped bit anywhere: either it does not matter, or the step before is used."""
    random = np.random.default_rng(0)
    _save(tmp_path, state, 1, 2)
    files = [p for p in (tmp_path / "checkpoints" / "2").rglob("*") if p.stat().st_size]
    files = [p for p in files if p.is_file()]
    outcomes = []
    for _ in range(12):
        file = files[random.integers(len(files))]
        whole = file.read_bytes()
        data = bytearray(whole)
        data[random.integers(len(data))] ^= 1 << random.integers(8)
        file.write_bytes(data)
        checkpoints = ck.Checkpoints(tmp_path, keep=5, read_only=True)
        restored, data_state = checkpoints.restore_newest(tiny.abstract_state(1), set_aside=False)
        checkpoints.close()
        file.write_bytes(whole)
        step = int(restored.step)
        outcomes.append(step)
        assert data_state == {"next_index": step}
        expected = state.replace(step=np.int32(step))
        jax.tree.map(np.testing.assert_array_equal, restored, expected)
    assert 1 in outcomes


def test_checkpoints_name_the_newest_where_none_is_sound(tmp_path, state):
    _save(tmp_path, state, 1, 2)
    for step in ("1", "2"):
        for file in (tmp_path / "checkpoints" / step / "opt").rglob("*"):
            if file.is_file():
                file.unlink()
    checkpoints = ck.Checkpoints(tmp_path, keep=5)
    with pytest.raises(ck.CheckpointError, match=r"checkpoints/2 cannot be read"):
        checkpoints.restore_newest(tiny.abstract_state(1))
    assert checkpoints.steps() == [1, 2]  # Nothing is moved where it would not help.
    checkpoints.close()


def test_load_params_verifies_averages(tmp_path, state):
    _save(tmp_path, state, 2)
    params, step = _params(tmp_path, "0.5")
    assert step == 2
    jax.tree.map(np.testing.assert_array_equal, params, state.ema["0.5"])
