import errno
import os
import pathlib
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from iddpm_jax.data import DataOptions, load_source, make_batches
from iddpm_jax.data.folder import FolderSource, class_names_of, class_of
from iddpm_jax.data.image_batches import image_batches
from iddpm_jax.data.images import BadImageError
from iddpm_jax.data.listing import list_images
from iddpm_jax.data.reading import ReadError, read_with_retries
from iddpm_jax.errors import UsageError


def _options(folder, **options) -> DataOptions:
    return DataOptions(
        **{"name": "folder", "image_size": 32, "channels": 3, "dir": str(folder)} | options
    )


def _write(path: pathlib.Path, value: int = 0, size=(32, 32)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


@pytest.fixture
def folder(tmp_path):
    """Twelve grey images of three classes, each with its number as its grey."""
    root = tmp_path / "images"
    for i in range(12):
        _write(root / f"dir{i % 2}" / f"{'abc'[i % 3]}_{i:02d}.png", i)
    return root


def _greys(source) -> list[int]:
    return source.batch(np.arange(len(source)))["image"][:, 0, 0, 0].tolist()


def test_folder_knows_labels_without_reading_images(folder, monkeypatch):
    source = load_source(_options(folder, labels="prefix", cache_mb=0))
    monkeypatch.setattr(FolderSource, "_decode", lambda self, number: pytest.fail("was read"))
    assert sorted(source.labels.tolist()) == sorted([0, 1, 2] * 4)


@pytest.mark.parity
@pytest.mark.parametrize("cache_mb", [0, 2048])
def test_folder_equals_reference_bit_for_bit(golden, cache_mb):
    arrays, root = golden.npz("image_folder"), golden.folder / "images"
    names = tuple(arrays["files"].tolist())
    assert list_images(root).names == names
    source = load_source(_options(root, cache_mb=cache_mb, image_size=arrays["images"].shape[-1]))
    images = source.batch(np.arange(len(source)))["image"]
    expected = np.moveaxis(arrays["images"], 1, -1)
    np.testing.assert_array_equal(images.astype(np.float32) / 127.5 - 1, expected)
    classes = class_names_of(names, "prefix")
    labels = [classes.index(class_of(name, "prefix")) for name in names]
    assert labels == arrays["labels"].tolist()


def test_archives_are_read_in_place_in_the_order_of_the_folder(golden, tmp_path):
    root = golden.folder / "images"
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(root.rglob("*"), reverse=True):
            archive.write(path, path.relative_to(root))
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(root, ".", recursive=True)
    expected = load_source(_options(root)).images
    for name in ("a.zip", "a.tar"):
        for cache_mb in (0, 10):
            source = load_source(_options(tmp_path / name, cache_mb=cache_mb))
            images = source.batch(np.arange(len(source)))["image"]
            np.testing.assert_array_equal(images, expected, err_msg=name)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        archive.add(root, ".", recursive=True)
    with pytest.raises(ValueError, match=r"nor a zip or tar archive \(a tar .*not be compressed"):
        load_source(_options(tmp_path / "a.tar.gz"))


@pytest.mark.parametrize("cache_mb", [0, 10])
def test_labels_are_sorted_prefixes_or_directories(folder, cache_mb):
    source = load_source(_options(folder, labels="prefix", cache_mb=cache_mb))
    assert source.class_names == ("a", "b", "c")
    batch = source.batch(np.arange(12))
    assert (batch["label"] == batch["image"][:, 0, 0, 0] % 3).all()
    source = load_source(_options(folder, labels="directory", cache_mb=cache_mb))
    assert source.class_names == ("dir0", "dir1")
    batch = source.batch(np.arange(12))
    assert (batch["label"] == batch["image"][:, 0, 0, 0] % 2).all()
    assert load_source(_options(folder)).class_names == ()


def test_labels_keep_their_ids_where_a_class_is_gone(folder):
    for path in folder.rglob("b_*"):
        path.unlink()
    source = load_source(_options(folder, labels="prefix", class_names=("a", "b", "c")))
    assert sorted(set(source.batch(np.arange(len(source)))["label"].tolist())) == [0, 2]
    assert source.class_names == ("a", "b", "c")
    _write(folder / "new_1.png")
    with pytest.raises(ValueError, match=r"has the classes new, which the run's labels\.json"):
        load_source(_options(folder, labels="prefix", class_names=("a", "b", "c")))


def test_labels_that_are_missing_are_an_error_where_they_are_needed(folder):
    _write(folder / "nolabel.png")
    assert len(load_source(_options(folder))) == 13
    with pytest.raises(ValueError, match=r"'nolabel\.png'.*has no class.*underscore"):
        load_source(_options(folder, labels="prefix"))
    with pytest.raises(ValueError, match=r"'nolabel\.png'.*has no class.*folder"):
        load_source(_options(folder, labels="directory"))


@pytest.mark.parametrize(
    ("names", "warns"),
    [
        (("cats/IMG_1.png", "dogs/IMG_2.png"), True),
        (("cats/1a_1.png", "cats/2b_1.png", "dogs/3c_1.png", "dogs/4d_1.png"), True),
        (("n01/n01_1.png", "n02/n02_1.png"), False),
        (("part1/a_1.png", "part1/b_1.png", "part2/a_2.png", "part2/b_2.png"), False),
        (("IMG_1.png", "IMG_2.png"), False),
    ],
)
def test_folders_that_look_like_classes_are_named(tmp_path, warned, names, warns):
    for name in names:
        _write(tmp_path / name)
    load_source(_options(tmp_path, labels="prefix"))
    assert ("data.labels=directory makes those the classes" in warned.text) == warns
    warned.clear()
    load_source(_options(tmp_path, labels="none"))
    assert not warned.text


def test_files_in_folders_without_a_prefix_name_the_mend(tmp_path):
    _write(tmp_path / "cats" / "1.png")
    with pytest.raises(ValueError, match=r"'cats/1\.png'.*underscore.*; data\.labels=directory"):
        load_source(_options(tmp_path, labels="prefix"))


def test_splits_of_a_folder_are_stable_and_complete(folder):
    for i in range(12, 200):
        _write(folder / f"a_{i}.png", i)
    options = {"test_percent": 20.0}
    train, test = (load_source(_options(folder, split=s, **options)) for s in ("train", "test"))
    assert sorted(_greys(train) + _greys(test)) == list(range(200))
    assert 20 < len(test) < 60
    before = _greys(test)
    for path in list(folder.glob("a_1*.png")):
        path.unlink()
    left = _greys(load_source(_options(folder, split="test", **options)))
    assert left == [grey for grey in before if not 100 <= grey < 200 and not 12 <= grey < 20]
    with pytest.raises(ValueError, match=r"data\.test_percent says how much"):
        load_source(_options(folder, split="test"))
    with pytest.raises(ValueError, match="a folder has train, test and all"):
        load_source(_options(folder, split="valid"))
    assert len(load_source(_options(folder, split="all[:10]", **options))) == 10


def _tar(folder, path):
    with tarfile.open(path, "w") as archive:
        archive.add(folder, ".", recursive=True)
    return path.read_bytes()


def test_a_damaged_tar_is_no_smaller_data_set(folder, tmp_path):
    path = tmp_path / "a.tar"
    whole = _tar(folder, path)
    with tarfile.open(path) as archive:
        headers = [member.offset for member in archive]
    flipped = bytearray(whole)
    flipped[headers[6] + 20] ^= 1
    for damaged in (whole[: headers[6]], whole[: headers[6] + 100], bytes(flipped)):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged"):
            list_images(path)


def test_links_within_a_tar_are_followed(folder, tmp_path, warned):
    os.link(folder / "dir0" / "a_00.png", folder / "dir0" / "hard_1.png")
    (folder / "dir1" / "soft_1.png").symlink_to("../dir0/a_00.png")
    (folder / "dir1" / "nowhere_1.png").symlink_to("absent.png")
    path = tmp_path / "a.tar"
    _tar(folder, path)
    listing = list_images(path)
    assert len(listing.names) == 14
    first = listing.read("dir0/a_00.png")
    assert listing.read("dir0/hard_1.png") == listing.read("dir1/soft_1.png") == first
    assert "nowhere_1.png" in warned.text


def test_a_damaged_member_of_a_zip_is_a_bad_image(folder, tmp_path, warned):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, file.relative_to(folder))
        info = archive.getinfo("dir0/a_00.png")
    data = bytearray(path.read_bytes())
    for place in range(info.header_offset + 45, info.header_offset + 60):
        data[place] ^= 0xFF
    path.write_bytes(data)
    assert len(load_source(_options(path))) == 11
    assert "dir0/a_00.png" in warned.text


def test_evaluation_counts_no_image_that_stands_in_for_another(folder):
    (folder / "dir0" / "a_00.png").write_bytes(b"no image")
    source = load_source(_options(folder, cache_mb=0))
    batches = list(image_batches(source.batch, np.arange(12), 5))
    assert sum(batch.num_valid for batch in batches) == 11
    assert not batches[0].valid[0]


@pytest.mark.parametrize("cache_mb", [0, 10])
def test_bad_images_are_named_and_left_out(folder, warned, cache_mb):
    good = (folder / "dir0" / "a_00.png").read_bytes()
    (folder / "dir0" / "a_00.png").write_bytes(good[: len(good) // 2])
    (folder / "dir1" / "b_01.png").write_bytes(b"no image")
    (folder / "dir1" / "c_05.png").unlink()
    (folder / "dir1" / "c_05.png").symlink_to("nowhere")
    greys = _greys(load_source(_options(folder, cache_mb=cache_mb)))
    assert not {0, 1, 5} & set(greys)
    assert set(greys) == set(range(12)) - {0, 1, 5}
    assert len(greys) == (9 if cache_mb else 12)  # Undecoded, another one stands in.
    for name in ("dir0/a_00.png", "dir1/b_01.png", "dir1/c_05.png"):
        assert name in warned.text
    if cache_mb:
        assert "3 of 12 images" in warned.text
    with pytest.raises(ValueError, match=r"'dir0/a_00\.png' cannot be used"):
        _greys(load_source(_options(folder, cache_mb=cache_mb, on_bad_image="error")))


def test_folders_without_a_usable_image_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        load_source(_options(tmp_path / "absent"))
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match=r"has no images; looked for \.jpg"):
        load_source(_options(tmp_path))
    with pytest.raises(ValueError, match="neither a folder nor a zip or tar archive"):
        load_source(_options(tmp_path / "notes.txt"))
    (tmp_path / "a_1.png").write_bytes(b"no image")
    for cache_mb in (0, 10):
        with pytest.raises(ValueError, match="none of the 1 images"):
            _greys(load_source(_options(tmp_path, cache_mb=cache_mb)))


def test_links_that_go_round_in_circles_are_left_out(folder, warned):
    (folder / "dir0" / "loop").symlink_to(folder)
    assert len(list_images(folder).names) == 12
    assert "symbolic link to a folder above it" in warned.text
    elsewhere = shutil.copytree(folder / "dir1", folder.parent / "elsewhere")
    (folder / "linked").symlink_to(elsewhere)
    assert len(list_images(folder).names) == 18


def test_names_may_be_of_any_script(tmp_path):
    for name in ("größe_1.png", "犬_2.png", "sp ace_3.png"):
        _write(tmp_path / name)
    os.rename(os.fsencode(tmp_path / "sp ace_3.png"), os.fsencode(tmp_path) + b"/\xff_3.png")
    source = load_source(_options(tmp_path, labels="prefix", test_percent=50.0, split="all"))
    assert len(source) == 3
    assert "犬" in source.class_names


class _Failing:
    """A listing whose first file the system fails to read so many times."""

    def __init__(self, listing, times):
        self.names, self._read, self.left = listing.names, listing.read, times

    def read(self, name):
        if name == self.names[0] and self.left:
            self.left -= 1
            raise OSError(errno.ESTALE, "Stale file handle")
        return self._read(name)


def _failing_source(folder, monkeypatch, times):
    monkeypatch.setattr("iddpm_jax.data.reading._PAUSES", (0.0, 0.0, 0.0))
    failing = _Failing(list_images(folder), times)
    labels = np.zeros(12, np.int32)
    return FolderSource(failing, failing.names, labels, (), _options(folder)), failing


def test_a_system_that_fails_for_a_moment_marks_no_image_bad(folder, warned, monkeypatch):
    source, _ = _failing_source(folder, monkeypatch, 2)
    assert _greys(source) == _greys(load_source(_options(folder)))
    assert source.batch(np.arange(12))["sound"].all()
    assert "Stale file handle; trying again" in warned.text


@pytest.mark.parametrize("workers", [0, 2])
def test_a_system_that_keeps_failing_ends_training_with_a_state_to_continue_from(
    folder, monkeypatch, workers
):
    batching = {"batch_size": 4, "seed": 0, "num_workers": workers}
    source, failing = _failing_source(folder, monkeypatch, 0)
    undisturbed = make_batches(source, **batching)
    expected = [next(undisturbed)["image"] for _ in range(6)]
    failing.left = 10**6
    batches = make_batches(source, **batching)
    seen = []

    def train():
        while True:
            seen.append(next(batches)["image"])

    with pytest.raises(ReadError, match=r"'dir0/a_00\.png' cannot be read, after 4 .*: .*Stale"):
        train()
    with pytest.raises(UsageError, match="after 4 attempts"):
        source.decoded()
    failing.left = 0
    continued = make_batches(source, **batching)
    continued.set_state(batches.get_state())
    seen += [next(continued)["image"] for _ in range(6 - len(seen))]
    np.testing.assert_array_equal(seen, expected)


def test_read_with_retries_waits_longer_each_time_for_the_system_and_not_for_decoders():
    pauses = []

    def fail():
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    with pytest.raises(ReadError, match="an image cannot be read"):
        read_with_retries(fail, "an image", pauses.append)
    assert pauses == sorted(pauses)
    assert len(pauses) == 3

    def damaged():
        raise OSError("broken data stream")

    with pytest.raises(BadImageError, match="broken data stream"):
        read_with_retries(damaged, "an image", pauses.append)
    assert len(pauses) == 3


def test_fingerprint_tells_which_files_there_are(folder, tmp_path):
    options = _options(folder, labels="prefix")
    before = load_source(options).fingerprint
    assert len(before) == 32
    undecoded = load_source(_options(folder, labels="prefix", cache_mb=0))
    assert undecoded.fingerprint == before
    named = _options(folder, labels="prefix", class_names=("c", "b", "a"))
    assert load_source(named).fingerprint == before
    moved = shutil.copytree(folder, tmp_path / "elsewhere")
    assert load_source(_options(moved)).fingerprint == before
    _tar(folder, tmp_path / "a.tar")
    assert load_source(_options(tmp_path / "a.tar")).fingerprint == before
    _write(folder / "dir0" / "a_99.png", 99)
    more = load_source(options).fingerprint
    (folder / "dir0" / "a_00.png").rename(folder / "dir0" / "a_98.png")
    assert len({before, more, load_source(options).fingerprint}) == 3
    # What cannot be decoded is not among what is learned.
    (folder / "dir0" / "a_98.png").write_bytes(b"no image")
    (moved / "dir0" / "a_00.png").unlink()
    shutil.copy(folder / "dir0" / "a_99.png", moved / "dir0" / "a_99.png")
    assert load_source(options).fingerprint == load_source(_options(moved)).fingerprint
