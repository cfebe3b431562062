"""From a folder of images to a training run: what README.md says of your own images."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.commands import run, train


@pytest.fixture
def folder(tmp_path):
    """Forty images of two classes, larger than the network's."""
    root = tmp_path / "images"
    root.mkdir()
    random = np.random.default_rng(0)
    for i in range(40):
        pixels = random.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{'cat' if i % 2 else 'dog'}_{i}.jpg")
    return root


def test_a_folder_trains_continues_and_keeps_its_classes(folder, tmp_path):
    workdir = tmp_path / "run"
    flags = (
        "--config.data.name=folder",
        f"--config.data.dir={folder}",
        "--config.data.test_percent=25.0",
        "--config.model.num_classes=2",
    )
    result = train(workdir, *flags, "--config.train.num_steps=2")
    assert result.returncode == 0, result.stderr
    assert " images, 2 classes (cat, dog), 8 × 8, gray\n" in result.stdout
    assert json.loads((workdir / "labels.json").read_text()) == ["cat", "dog"]
    for path in folder.glob("cat_*"):
        path.unlink()
    for i in range(40, 70):  # So that a batch is still there.
        (folder / f"dog_{i}.jpg").write_bytes((folder / "dog_0.jpg").read_bytes())
    more = (*flags, "--config.train.num_steps=4")
    result = train(workdir, *more)
    assert result.returncode == 1
    assert "--config.data.may_change=True" in result.stderr
    result = train(workdir, *more, "--config.data.may_change=True")
    assert result.returncode == 0, result.stderr
    assert "continuing after step 2" in result.stdout
    assert json.loads((workdir / "labels.json").read_text()) == ["cat", "dog"]
    moved = folder.rename(tmp_path / "moved")
    nll = ["-m", "iddpm_jax.nll", f"--workdir={workdir}", "--split=test", "--respacing=2"]
    result = run(nll)
    assert "does not exist" in result.stderr
    result = run([*nll, f"--data_dir={moved}", "--test_percent=60"])
    assert result.returncode == 0, result.stderr
    assert "images of 'test'" in result.stdout
    assert "more than the run's data.test_percent=25.0" in result.stderr
    assert [path.name[:16] for path in (workdir / "nll").iterdir()] == ["test_60-percent_"]


def test_a_folder_that_does_not_fit_is_refused_in_one_line(folder, tmp_path):
    flags = ["--config.data.name=folder", f"--config.data.dir={folder}"]
    wrong = {
        "is more than the 40 images": ["--config.train.batch_size=64"],
        "labels 0 to 1, outside model.num_classes=1": ["--config.model.num_classes=1"],
        "choose one of": ["--config.data.labels=suffix"],
    }
    for message, more in wrong.items():
        result = train(tmp_path / "run", *flags, "--config.model.num_classes=2", *more)
        assert result.returncode == 1, message
        assert message in result.stderr
        assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_bad_image_that_is_an_error_stops_in_one_line_with_what_was_learned(folder, tmp_path):
    for path in sorted(folder.iterdir())[20:]:
        path.write_bytes(b"no image")
    workdir = tmp_path / "run"
    flags = ("--config.data.name=folder", f"--config.data.dir={folder}", "--config.data.cache_mb=0")
    result = train(
        workdir,
        *flags,
        "--config.data.on_bad_image=error",
        "--config.model.num_classes=3",  # One more than there are names for.
        "--config.train.num_steps=2",
    )
    assert result.returncode == 1
    assert "cannot be used: it is no image of the formats" in result.stderr
    assert "Traceback" not in result.stderr
