import json
import os
import pathlib
import shutil
import threading

import jax
import numpy as np
import optax
import pytest

from iddpm_jax.training import checkpoint_items, checkpoint_reader
from iddpm_jax.training import checkpoints as ck
from tests import linear, tiny


@pytest.fixture(scope="module")
def state():
    return linear.run_steps(2)


@pytest.fixture
def saved(tmp_path, state):
    checkpoints = ck.Checkpoints(tmp_path, keep=2, run=tiny.RUN)
    checkpoints.save(state, {"next_index": 7})
    checkpoints.close()
    return tmp_path


def test_checkpoints_restore_every_leaf_bitwise(saved, state):
    checkpoints = ck.Checkpoints(saved, keep=2, run=tiny.RUN)
    restored, data_state = checkpoints.restore(2, linear.abstract_state())
    checkpoints.close()
    assert data_state == {"next_index": 7}
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, restored, state)


def test_checkpoints_restore_a_state_without_averages(tmp_path, state):
    def without(state):
        return state.replace(opt_state=optax.tree.set(state.opt_state, ema={}))

    checkpoints = ck.Checkpoints(tmp_path, keep=2, run=tiny.RUN)
    checkpoints.save(without(state), {})
    restored, _ = checkpoints.restore(2, without(linear.abstract_state()))
    checkpoints.close()
    assert restored.ema == {}
    jax.tree.map(np.testing.assert_array_equal, restored, without(state))


def test_checkpoints_are_separate_items(saved):
    items = {path.name for path in (saved / "checkpoints" / "2").iterdir() if path.is_dir()}
    assert {"params", "ema", "opt", "counters", "data", "meta"} <= items


def test_checkpoints_restore_onto_other_devices(saved, state):
    checkpoints = ck.Checkpoints(saved, keep=2, run=tiny.RUN)
    restored, _ = checkpoints.restore(2, linear.abstract_state(devices=8))
    checkpoints.close()
    assert len(restored.step.sharding.device_set) == 8
    # The step takes it as it is.
    assert int(linear.train_step(8)(restored, tiny.batch(2, 8)).step) == 3


def test_checkpoints_keep_the_newest(tmp_path, state):
    checkpoints = ck.Checkpoints(tmp_path, keep=2, run=tiny.RUN)
    for step in (1, 2, 3):
        checkpoints.save(state.replace(step=np.int32(step)), {})
    checkpoints.save(state.replace(step=np.int32(3)), {})
    assert checkpoints.steps() == [2, 3]
    checkpoints.close()


def test_checkpoints_refuse_a_damaged_one(saved):
    for file in (saved / "checkpoints" / "2" / "params").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    checkpoints = ck.Checkpoints(saved, keep=2, run=tiny.RUN)
    with pytest.raises(ck.CheckpointError, match=r"checkpoints/2 cannot be read"):
        checkpoints.restore(2, linear.abstract_state())
    checkpoints.close()


def test_checkpoints_refuse_another_format(tmp_path, state, monkeypatch):
    with monkeypatch.context() as future:
        future.setattr(checkpoint_items, "FORMAT_VERSION", 9)
        _save(tmp_path, state, 2)
    checkpoints = ck.Checkpoints(tmp_path, keep=2, run=tiny.RUN)
    refused = pytest.raises(ck.CheckpointError, match="format version 9, this program reads ver")
    with refused:
        checkpoints.restore(2, linear.abstract_state())
    with refused:
        _params(tmp_path)


def _save(workdir, state, *steps, keep=5):
    checkpoints = ck.Checkpoints(workdir, keep=keep, run=tiny.RUN)
    for step in steps:
        checkpoints.save(state.replace(step=np.int32(step)), {"next_index": step})
    checkpoints.close()


def _params(workdir, ema="none"):
    return checkpoint_reader.load_params(workdir, ema, linear.abstract_state().params, tiny.RUN)


def test_checkpoints_notice_a_value_that_is_not_what_was_saved(tmp_path, state, monkeypatch):
    flipped = jax.tree.map(lambda leaf: leaf, state.params)
    bias = np.array(flipped["out_conv"]["bias"])
    bias.view(np.uint8)[0] ^= 1
    flipped["out_conv"]["bias"] = bias
    _save(tmp_path, state, 1)
    # Step 2 is written with the bit flipped, and the checksums of what it should have been.
    right = checkpoint_items.to_items(state.replace(step=np.int32(2)))
    of_tree = ck.checksums.of_tree
    with monkeypatch.context() as silent:
        silent.setattr(ck.checksums, "of_tree", lambda tree: of_tree(right["params"]))
        _save(tmp_path, state.replace(params=flipped), 2)
    checkpoints = ck.Checkpoints(tmp_path, keep=5, run=tiny.RUN)
    with pytest.raises(ck.CheckpointError, match=r"damaged: in its item params, .*out_conv.*bias"):
        checkpoints.restore(2, linear.abstract_state())
    checkpoints.close()
    params, step = _params(tmp_path)
    assert step == 1
    jax.tree.map(np.testing.assert_array_equal, params, state.params)


@pytest.mark.parametrize("item", ["params", "ema", "opt", "counters", "data", "meta"])
def test_checkpoints_fall_back_where_an_item_is_damaged(tmp_path, state, item):
    _save(tmp_path, state, 1, 2)
    for file in (tmp_path / "checkpoints" / "2" / item).rglob("*"):
        data = bytearray(file.read_bytes()) if file.is_file() else b""
        for position in range(len(data) // 3, len(data), max(len(data) // 7, 1)):
            data[position] ^= 0x10
        if data:
            file.write_bytes(data)
    checkpoints = ck.Checkpoints(tmp_path, keep=5, run=tiny.RUN)
    restored, data_state = checkpoints.restore_newest(linear.abstract_state())
    assert data_state == {"next_index": 1}
    jax.tree.map(np.testing.assert_array_equal, restored.params, state.params)
    # The damaged one is out of the way, and kept.
    assert checkpoints.steps() == [1]
    assert [p.name.split("_")[0] for p in (tmp_path / "damaged").iterdir()] == ["2"]
    checkpoints.save(state.replace(step=np.int32(2)), {"next_index": 2})
    assert checkpoints.steps() == [1, 2]
    assert checkpoints.restore_newest(linear.abstract_state())[1] == {"next_index": 2}
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
        checkpoints = ck.Checkpoints(tmp_path, keep=5, run=tiny.RUN, read_only=True)
        restored, data_state = checkpoints.restore_newest(linear.abstract_state())
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
    checkpoints = ck.Checkpoints(tmp_path, keep=5, run=tiny.RUN)
    with pytest.raises(ck.CheckpointError, match=r"checkpoints/2 cannot be read"):
        checkpoints.restore_newest(linear.abstract_state())
    assert checkpoints.steps() == [1, 2]  # Nothing is moved where it would not help.
    checkpoints.close()


def test_checkpoints_end_at_once_where_a_directory_cannot_be_made(tmp_path, state, monkeypatch):
    """Of the checkpoint itself, or of any of its items; Orbax waited for it for ever."""
    checkpoints = ck.Checkpoints(tmp_path, keep=2, run=tiny.RUN)
    mkdir = os.mkdir
    for step, name in ((2, "2"), (3, "params"), (4, "meta")):

        def refuse(path, *args, name=name, **kwargs):
            if pathlib.Path(os.fspath(path)).name.split(".")[0] == name:
                raise PermissionError(13, "Permission denied", str(path))
            mkdir(path, *args, **kwargs)

        monkeypatch.setattr(os, "mkdir", refuse)
        checkpoints.save(state.replace(step=np.int32(step)), {})
        assert checkpoints.steps() == []
        with pytest.raises(ck.CheckpointError, match=r"could not be written .*Permission denied"):
            checkpoints.check()
        checkpoints.check()  # Once is enough.
        assert list((tmp_path / "checkpoints").iterdir()) == []
    monkeypatch.setattr(os, "mkdir", mkdir)
    checkpoints.save(state.replace(step=np.int32(5)), {})
    checkpoints.close()
    assert checkpoints.steps() == [5]


def test_save_returns_before_anything_is_hashed_or_written(tmp_path, state, monkeypatch):
    written, go_on = threading.Event(), threading.Event()

    def write(*args):
        go_on.wait()
        write_checkpoint(*args)
        written.set()

    write_checkpoint = ck.write_checkpoint
    monkeypatch.setattr(ck, "write_checkpoint", write)
    of_array = ck.checksums._of_array
    threads = set()

    def note(array):
        threads.add(threading.current_thread())
        return of_array(array)

    monkeypatch.setattr(ck.checksums, "_of_array", note)
    checkpoints = ck.Checkpoints(tmp_path, keep=2, run=tiny.RUN)
    before = jax.device_get(state)
    own = jax.tree.map(lambda leaf: leaf + 0, state)
    checkpoints.save(own, {"next_index": 2})
    assert not threads
    # The next step writes into the buffers of this one.
    jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf * 0, tree), donate_argnums=0)(own)
    go_on.set()
    checkpoints.close()
    assert written.is_set()
    assert threading.main_thread() not in threads
    restored, _ = checkpoints.restore(2, linear.abstract_state())
    jax.tree.map(np.testing.assert_array_equal, restored, before)


def _refused(checkpoints, step, match):
    with pytest.raises(ck.CheckpointError, match=match):
        checkpoints.restore(step, linear.abstract_state())


def test_checkpoints_refuse_one_that_was_renamed(tmp_path, state):
    _save(tmp_path, state, 1, 2)
    directory = tmp_path / "checkpoints"
    (directory / "2").rename(directory / "7")
    assert _params(tmp_path)[1] == 1
    checkpoints = ck.Checkpoints(tmp_path, keep=5, run=tiny.RUN)
    _refused(checkpoints, 7, "checkpoints/7 is that of step 2, renamed")
    assert checkpoints.restore_newest(linear.abstract_state())[1] == {"next_index": 1}
    assert checkpoints.steps() == [1]


@pytest.mark.parametrize("item", ["params", "ema", "meta", "data"])
def test_checkpoints_refuse_items_of_another_checkpoint(tmp_path, state, item):
    other = jax.tree.map(lambda leaf: leaf + 1, state.params)
    _save(tmp_path, state, 1)
    opt = optax.tree.set(state.opt_state, ema=dict.fromkeys(state.ema, other))
    _save(tmp_path, state.replace(params=other, opt_state=opt), 2)
    directory = tmp_path / "checkpoints"
    shutil.rmtree(directory / "2" / item)
    shutil.copytree(directory / "1" / item, directory / "2" / item)
    assert _params(tmp_path, "0.5" if item == "ema" else "none")[1] == 1


_CONFIG = {"diffusion": {"steps": 10}, "train": {"lr": 0.1, "num_steps": 5}}


def _run(config=_CONFIG, **changes):
    return ck.RunIdentity(config, may_change=frozenset({"train.num_steps"}), **changes)


def _save_as(workdir, state, run):
    checkpoints = ck.Checkpoints(workdir, keep=5, run=run)
    checkpoints.save(state, {})
    checkpoints.close()


def test_checkpoints_refuse_those_of_another_run(tmp_path, state):
    _save_as(tmp_path, state, _run())
    longer = {"diffusion": {"steps": 10}, "train": {"lr": 0.1, "num_steps": 9}}
    same = ck.Checkpoints(tmp_path, keep=5, run=_run(longer))
    same.restore(2, linear.abstract_state())
    other = _run({"diffusion": {"steps": 20}, "train": {"lr": 0.1}, "model": {"new": 1}})
    match = "of another run: diffusion.steps: it has 10, config.json has 20; model.new: it has not"
    with pytest.raises(ck.CheckpointError, match=match):
        checkpoint_reader.load_params(tmp_path, "none", linear.abstract_state().params, other)


@pytest.mark.parametrize(
    ("now", "match"),
    [
        (("dog", "cat"), "class 0 is 'cat', labels.json has 'dog'; restore labels.json"),
        ((), "it has names of 2 classes, labels.json is missing"),
        (("cat", "dog", "eel"), "it has 2 classes, labels.json 3"),
    ],
)
def test_checkpoints_refuse_other_class_names(tmp_path, state, now, match):
    _save_as(tmp_path, state, _run(class_names=("cat", "dog")))
    for run in (_run(class_names=("cat", "dog")), _run(class_names=None)):
        ck.Checkpoints(tmp_path, keep=5, run=run).restore(2, linear.abstract_state())
    checkpoints = ck.Checkpoints(tmp_path, keep=5, run=_run(class_names=now))
    _refused(checkpoints, 2, match)


def test_restore_newest_refuses_other_images_unless_they_may_change(tmp_path, state, caplog):
    _save_as(tmp_path, state, _run(fingerprint="aa"))
    for run in (_run(fingerprint="aa"), _run()):
        ck.Checkpoints(tmp_path, keep=5, run=run).restore_newest(linear.abstract_state())
    other = ck.Checkpoints(tmp_path, keep=5, run=_run(fingerprint="bb"))
    with pytest.raises(ck.DataChangedError, match=r"aa in .*bb now.*config.data.may_change=True"):
        other.restore_newest(linear.abstract_state())
    assert other.steps() == [2]
    allowed = _run(fingerprint="bb", data_may_change=True)
    ck.Checkpoints(tmp_path, keep=5, run=allowed).restore_newest(linear.abstract_state())
    assert "the images are not those" in caplog.text


def _edit_meta(workdir, step, change):
    """Changes a meta item, and has its digest say that nothing was."""
    folder = workdir / "checkpoints" / str(step)
    meta, data = (json.loads((folder / name / "metadata").read_text()) for name in ("meta", "data"))
    change(meta)
    meta["digest"] = checkpoint_items._digest(meta, data)
    (folder / "meta" / "metadata").write_text(json.dumps(meta))


@pytest.mark.parametrize(
    "change",
    [
        lambda meta: meta.update(checksums=None),
        lambda meta: meta["checksums"].update(params=None),
        lambda meta: meta["checksums"].update(params={}),
        lambda meta: meta["checksums"].pop("params"),
        lambda meta: meta.update(step="2"),
        lambda meta: meta.update(config=[]),
        lambda meta: meta.pop("class_names"),
        lambda meta: meta.clear(),
    ],
)
def test_load_params_passes_over_a_meta_item_that_makes_no_sense(tmp_path, state, change):
    _save(tmp_path, state, 1, 2)
    _edit_meta(tmp_path, 2, change)
    assert _params(tmp_path)[1] == 1


def test_load_params_passes_over_a_flipped_bit_in_the_items_description(tmp_path, state):
    """Names, paths and shapes of the arrays are there, which no checksum is of."""
    _save(tmp_path, state, 1, 2)
    file = tmp_path / "checkpoints" / "2" / "ema" / "_METADATA"
    whole = file.read_bytes()
    random = np.random.default_rng(0)
    steps = []
    for position in random.choice(len(whole), 16, replace=False):
        data = bytearray(whole)
        data[position] ^= 1 << random.integers(8)
        file.write_bytes(data)
        params, step = _params(tmp_path, "0.5")
        steps.append(step)
        jax.tree.map(np.testing.assert_array_equal, params, state.ema["0.5"])
    assert set(steps) == {1, 2}


def test_load_params_takes_the_newest_where_one_is_removed_meanwhile(tmp_path, state, monkeypatch):
    _save(tmp_path, state, 1)
    read_item = checkpoint_reader.read_item

    def removed(path, *args, **options):
        if path.name == "1":
            _save(tmp_path, state, 2, keep=1)
            assert not path.exists()
        return read_item(path, *args, **options)

    monkeypatch.setattr(checkpoint_reader, "read_item", removed)
    assert _params(tmp_path)[1] == 2


def test_load_params_verifies_averages(tmp_path, state):
    _save(tmp_path, state, 2)
    params, step = _params(tmp_path, "0.5")
    assert step == 2
    jax.tree.map(np.testing.assert_array_equal, params, state.ema["0.5"])
