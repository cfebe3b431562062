import zipfile

import numpy as np
import pytest

from iddpm_jax.evaluation.shards import ShardedSamples, claim

SETTINGS = {"seed": 1, "labels": (0, 1)}


def _write(directory, counts=(4, 4, 2), labelled=True):
    claim(directory, SETTINGS)
    samples = ShardedSamples(directory)
    for number in range(samples.count(), len(counts)):
        random = np.random.default_rng(number)
        images = random.integers(0, 256, (counts[number], 3, 3, 1), dtype=np.uint8)
        labels = random.integers(0, 2, counts[number], dtype=np.int32) if labelled else None
        samples.write(number, images, labels)
    return samples


def test_sharded_samples_end_as_the_evaluator_reads_them(tmp_path):
    samples = _write(tmp_path / "out")
    parts = list(samples.read())
    samples.finish(10)
    assert samples.complete
    with np.load(samples.result) as result:
        assert result.files == ["arr_0", "arr_1"]
        np.testing.assert_array_equal(result["arr_0"], np.concatenate([p[0] for p in parts]))
        np.testing.assert_array_equal(result["arr_1"], np.concatenate([p[1] for p in parts]))
        assert (result["arr_0"].dtype, result["arr_1"].dtype) == (np.uint8, np.int64)
    assert sorted(p.name for p in samples.directory.iterdir()) == ["samples.npz", "sampling.json"]


def test_sharded_samples_without_labels_have_one_array(tmp_path):
    samples = _write(tmp_path / "out", labelled=False)
    samples.finish(10)
    with np.load(samples.result) as result:
        assert result.files == ["arr_0"]


def test_sharded_samples_continue_to_the_same_bytes(tmp_path):
    whole = _write(tmp_path / "whole")
    whole.finish(10)
    _write(tmp_path / "cut", counts=(4,))
    # What a kill leaves behind: a file that is not complete yet.
    (tmp_path / "cut" / "shards" / "000001.npz.tmp").write_bytes(b"half")
    continued = _write(tmp_path / "cut")
    continued.finish(10)
    assert whole.result.read_bytes() == continued.result.read_bytes()
    with zipfile.ZipFile(whole.result) as archive:
        assert archive.testzip() is None


def test_sharded_samples_refuse_another_runs_directory(tmp_path):
    _write(tmp_path / "out")
    with pytest.raises(ValueError, match="seed: there 1, now 2"):
        claim(tmp_path / "out", {**SETTINGS, "seed": 2})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match="holds other files"):
        claim(tmp_path / "mine", SETTINGS)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written"):
        claim(tmp_path / "file" / "out", SETTINGS)
