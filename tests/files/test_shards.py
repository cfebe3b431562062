import os
import pathlib
import zipfile

import numpy as np
import pytest

from iddpm_jax.errors import UsageError
from iddpm_jax.files.settings_record import record_settings
from iddpm_jax.files.shards import ShardedSamples, Shards

SETTINGS = {"seed": 1, "labels": (0, 1)}
SHAPE = (3, 3, 1)
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (10, *SHAPE), dtype=np.uint8)
LABELS = RANDOM.integers(0, 2, 10, dtype=np.int32)


def _samples(directory, labelled=True, rgb=False):
    return ShardedSamples(directory, 10, SHAPE, num_classes=2 * labelled, rgb=rgb)


def _write(directory, counts=(4, 4, 2), labelled=True, rgb=False):
    """Continues with parts of so many samples."""
    record_settings(directory, SETTINGS)
    samples = _samples(directory, labelled, rgb)
    for count in counts:
        done = samples.done()
        part = slice(done, done + count)
        samples.write(done, IMAGES[part], LABELS[part] if labelled else None)
    return samples


def test_sharded_samples_end_as_the_evaluator_reads_them(tmp_path):
    samples = _write(tmp_path / "out")
    assert not samples.complete()
    samples.finish()
    assert samples.complete()
    with np.load(samples.result) as result:
        assert result.files == ["arr_0", "arr_1"]
        np.testing.assert_array_equal(result["arr_0"], IMAGES)
        np.testing.assert_array_equal(result["arr_1"], LABELS)
        assert (result["arr_0"].dtype, result["arr_1"].dtype) == (np.uint8, np.int64)
    assert sorted(p.name for p in samples.directory.iterdir()) == ["samples.npz", "sampling.json"]


def test_sharded_samples_without_labels_have_one_array(tmp_path):
    samples = _write(tmp_path / "out", labelled=False)
    samples.finish()
    with np.load(samples.result) as result:
        assert result.files == ["arr_0"]


def test_sharded_samples_of_one_channel_may_end_as_rgb(tmp_path):
    samples = _write(tmp_path / "out", rgb=True)
    samples.finish()
    assert samples.complete()
    with np.load(samples.result) as result:
        assert result["arr_0"].shape == (10, 3, 3, 3)
        np.testing.assert_array_equal(result["arr_0"], np.repeat(IMAGES, 3, axis=-1))
    parts = list(samples.read_result(4))
    assert [len(part) for part in parts] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate(parts)[..., :1], IMAGES)


@pytest.mark.parametrize("rest", [(4, 2), (6,), (1, 5)])
def test_sharded_samples_continue_to_the_same_bytes_with_any_batch_size(tmp_path, rest):
    whole = _write(tmp_path / "whole")
    whole.finish()
    _write(tmp_path / "cut", counts=(4,))
    # What a kill leaves behind: a file that is not complete yet.
    scratch = tmp_path / "cut" / "shards" / ".000000004.npz.0123456789abcdef.tmp"
    scratch.write_bytes(b"half")
    continued = _write(tmp_path / "cut", counts=rest)
    continued.finish()
    assert whole.result.read_bytes() == continued.result.read_bytes()
    with zipfile.ZipFile(whole.result) as archive:
        assert archive.testzip() is None
    assert not (tmp_path / "cut" / "shards").exists()


def test_shards_of_several_batch_sizes_are_never_counted_twice(tmp_path):
    shards = Shards(tmp_path, 20)
    for first in (0, 4, 8):
        shards.write(first, 4, {"x": np.arange(first, first + 4)})
    (tmp_path / "000000004.npz").unlink()  # As a user is told to, if it is damaged.
    assert shards.done() == 4
    shards.write(4, 2, {"x": np.arange(4, 6)})
    assert shards.done() == 6  # What is there from 8 on does not follow yet.
    shards.write(6, 2, {"x": np.arange(6, 8)})
    assert shards.done() == 12
    parts = list(shards.read())
    assert [count for count, _ in parts] == [4, 2, 2, 4]
    np.testing.assert_array_equal(np.concatenate([p["x"] for _, p in parts]), np.arange(12))


def test_shards_remove_what_is_theirs_and_nothing_else(tmp_path):
    shards = Shards(tmp_path / "shards", 4)
    shards.write(0, 4, {})
    (tmp_path / "shards" / "thesis.npz").write_text("")
    shards.remove()
    assert os.listdir(tmp_path / "shards") == ["thesis.npz"]
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "000000000.npz").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    Shards(tmp_path / "link", 4).remove()
    assert (tmp_path / "elsewhere" / "000000000.npz").exists()


def _flip(path: pathlib.Path, where: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(where * len(data))] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: _flip(path, 0.4),
        lambda path: _flip(path, 0.99),
        lambda path: path.write_bytes(path.read_bytes()[:-30]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"PK"),
        lambda path: np.savez(path, IMAGES[:9], LABELS[:9].astype(np.int64)),
        lambda path: np.savez(path, IMAGES, LABELS),
        lambda path: np.savez(path, IMAGES),
        lambda path: np.savez_compressed(path, IMAGES, LABELS.astype(np.int64)),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: (path.unlink(), os.mkfifo(path)),  # And is not waited for.
    ],
)
def test_sharded_samples_are_complete_only_if_they_are_what_was_written(tmp_path, damage):
    samples = _write(tmp_path / "out")
    samples.finish()
    damage(samples.result)
    message = r"out/samples.npz is damaged: .*; delete it, and it is drawn again"
    with pytest.raises(UsageError, match=message) as error:
        samples.complete()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: _flip(path, 0.5),
        lambda path: path.write_bytes(b"no zip"),
        lambda path: np.savez(path, images=IMAGES[:4], labels=LABELS[:4]),  # Of how many?
        lambda path: np.savez(path, images=IMAGES[:4], labels=LABELS[:4], items=0),
        lambda path: np.savez(path, images=IMAGES[:4], labels=LABELS[:4], items=11),
        lambda path: np.savez(path, images=IMAGES[:4], labels=LABELS[:4], items=[4]),
        lambda path: np.savez(path, images=IMAGES[:4], labels=LABELS[:4] + 2, items=4),
        lambda path: np.savez(path, images=IMAGES[:4], labels=LABELS[:4] * 0.5, items=4),
        lambda path: np.savez(path, images=IMAGES[:3], labels=LABELS[:4], items=4),
        lambda path: np.savez(path, images=IMAGES[:4].astype(int), labels=LABELS[:4], items=4),
        lambda path: np.savez(path, images=IMAGES[:4], items=4),
        lambda path: np.savez(path, images=np.array([{}] * 4), labels=LABELS[:4], items=4),
        lambda path: np.savez_compressed(path, images=np.zeros(2**27, np.uint8), items=4),
    ],
)
def test_sharded_samples_refuse_shards_that_are_not_theirs(tmp_path, damage):
    samples = _write(tmp_path / "out")
    damage(tmp_path / "out" / "shards" / "000000000.npz")
    with pytest.raises(UsageError, match=r"delete it, and (what it had|they)") as error:
        samples.finish()
    assert "\n" not in str(error.value)
    assert not samples.complete()


def test_sharded_samples_say_that_the_disk_is_full(tmp_path, monkeypatch):
    samples = _write(tmp_path / "out")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for write in (samples.finish, lambda: samples.write(0, IMAGES, LABELS)):
        with pytest.raises(UsageError, match=r"npz cannot be written: No space left on device"):
            write()
    monkeypatch.undo()
    samples.finish()  # Nothing is lost.
    assert samples.complete()
