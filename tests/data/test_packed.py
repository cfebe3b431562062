import errno
import io
import json
import os
import re

import numpy as np
import pytest
from PIL import Image

from iddpm_jax.data import DataOptions, load_source, packing
from iddpm_jax.data.images import BadImageError
from iddpm_jax.data.packed_writer import PackedWriter
from iddpm_jax.data.reading import ReadError
from iddpm_jax.errors import UsageError
from iddpm_jax.files.untrusted import open_regular
from tests.commands import run


def _options(out, **options):
    defaults = {"name": "packed", "image_size": 32, "channels": 3, "dir": str(out)}
    return DataOptions(**defaults | options)


def _all(source) -> np.ndarray:
    return source.batch(np.arange(len(source)))["image"]


def _write(folder) -> None:
    """Packs three grey images, each with its number as its grey and label."""
    writer = PackedWriter(folder, (4, 4, 1), {})
    for i in range(3):
        writer.add(np.full((4, 4, 1), i, np.uint8), i)
    writer.finish(("a", "b", "c"))


def _prepare(kind, *flags):
    return run(["-m", "iddpm_jax.prepare_data", kind, *flags])


def test_prepare_data_packs_a_folder_to_the_same_pixels(golden, tmp_path):
    root = golden.folder / "images"
    flags = [f"--source={root}", f"--out={tmp_path}", "--image_size=32"]
    result = _prepare("folder", *flags)
    assert result.returncode == 0, result.stderr
    assert "7 images in" in result.stdout
    packed = load_source(_options(tmp_path))
    folder = load_source(_options(root, name="folder"))
    assert _all(packed).tobytes() == folder.images.tobytes()
    assert len(load_source(_options(tmp_path, split="train[:3]"))) == 3
    again = _prepare("folder", *flags)
    assert again.returncode == 1
    assert "is complete already" in again.stderr


def test_prepare_data_packs_classes_and_refuses_files_without_one(tmp_path):
    for name in ("b_1.png", "a_2.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    origin = packing.folder_origin(tmp_path, 4, 3, "prefix", True)
    assert origin.class_names == ("a", "b")
    assert [origin.read(number)[1] for number in range(2)] == [0, 1]
    Image.new("RGB", (4, 4)).save(tmp_path / "none.png")
    with pytest.raises(ValueError, match=r"'none\.png'.*has no class"):
        packing.folder_origin(tmp_path, 4, 3, "prefix", True)


def test_packed_labels_follow_the_names_of_the_runs_classes(tmp_path):
    writer = PackedWriter(tmp_path / "train", (4, 4, 1), {})
    for i in range(2):
        writer.add(np.full((4, 4, 1), i, np.uint8), i)
    writer.finish(("b", "c"))
    options = _options(tmp_path, image_size=4, channels=1, class_names=("a", "b", "c"))
    source = load_source(options)
    assert source.class_names == ("a", "b", "c")
    assert source.batch(np.arange(2))["label"].tolist() == [1, 2]
    assert source.labels.tolist() == [1, 2]
    assert source[1]["label"] == 2
    with pytest.raises(ValueError, match=r"has the classes c, which the run's labels\.json"):
        load_source(_options(tmp_path, image_size=4, channels=1, class_names=("a", "b")))


def test_packed_writer_keeps_others_out_and_trusts_no_shorter_file(tmp_path, monkeypatch):
    monkeypatch.setattr("iddpm_jax.data.packed_writer._SAVE_EVERY", 1)
    writer = PackedWriter(tmp_path / "train", (4, 4, 1), {})
    with pytest.raises(ValueError, match="is being written by another process"):
        PackedWriter(tmp_path / "train", (4, 4, 1), {})
    writer.add(np.zeros((4, 4, 1), np.uint8), 0)
    writer.close()
    (tmp_path / "train" / "images.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"images\.bin is shorter than what was noted"):
        PackedWriter(tmp_path / "train", (4, 4, 1), {})
    (tmp_path / "train" / "progress.json").write_text("{}")
    with pytest.raises(ValueError, match=r"progress\.json cannot be read"):
        PackedWriter(tmp_path / "train", (4, 4, 1), {})
    empty = PackedWriter(tmp_path / "empty", (4, 4, 1), {})
    empty.add(None, 0)
    with pytest.raises(ValueError, match="no image that can be used"):
        empty.finish(())
    assert not (tmp_path / "empty").exists()


class _Origin:
    """Twenty grey images, one of which is bad, that count how often they are read."""

    def __init__(self):
        self.read_numbers = []

    def make(self) -> packing.Origin:
        def read(number):
            self.read_numbers.append(number)
            if number == 7:
                raise BadImageError("it is bad")
            return np.full((4, 4, 1), number, np.uint8), number % 3

        return packing.Origin(20, read, str, ("a", "b", "c"))


def test_pack_continues_after_a_crash_to_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("iddpm_jax.data.packed_writer._SAVE_EVERY", 5)
    monkeypatch.setattr(packing, "_AT_ONCE", 4)
    shape, record = (4, 4, 1), {"kind": "test"}
    whole, bad = packing.pack(_Origin().make(), PackedWriter(tmp_path / "w", shape, record), 2)
    assert (whole, bad) == (19, 1)

    class CrashError(Exception):
        pass

    def crash_at(number):
        def on_image(seen=[0]):  # noqa: B006
            seen[0] += 1
            if seen[0] == number:
                raise CrashError

        return on_image

    for number in (13, 6):
        writer = PackedWriter(tmp_path / "c", shape, record)
        with pytest.raises(CrashError):
            packing.pack(_Origin().make(), writer, 2, crash_at(number))
        writer.close()
    with pytest.raises(ValueError, match="was begun from"):
        PackedWriter(tmp_path / "c", shape, {"kind": "other"})
    last = _Origin()
    packing.pack(last.make(), PackedWriter(tmp_path / "c", shape, record), 2)
    assert min(last.read_numbers) >= 10
    for name in ("images.bin", "labels.bin", "info.json"):
        assert (tmp_path / "c" / name).read_bytes() == (tmp_path / "w" / name).read_bytes()
    assert not (tmp_path / "c" / "progress.json").exists()
    source = load_source(_options(tmp_path, split="c", image_size=4, channels=1))
    assert _all(source)[:, 0, 0, 0].tolist() == [i for i in range(20) if i != 7]


def test_imagenet_npz_is_planar_and_counts_labels_from_one(tmp_path):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    labels = np.array([1, 3, 2, 3, 1])
    planar = images.transpose(0, 3, 1, 2).reshape(5, -1)
    np.savez(tmp_path / "train_data_batch_1.npz", data=planar[:2], labels=labels[:2])
    np.savez(tmp_path / "train_data_batch_2.npz", data=planar[2:], labels=labels[2:])
    origin = packing.imagenet_npz_origin(tmp_path, 8)
    assert origin.count == 5
    assert origin.class_names == ("0", "1", "2")
    for number in range(5):
        image, label = origin.read(number)
        np.testing.assert_array_equal(image, images[number])
        assert label == labels[number] - 1
    np.savez(tmp_path / "train_data_batch_3.npz", data=planar.astype(np.int32), labels=labels)
    with pytest.raises(ValueError, match="are not those of down-sampled ImageNet"):
        packing.imagenet_npz_origin(tmp_path, 8)


def test_lsun_is_read_from_its_lmdb(tmp_path):
    lmdb = pytest.importorskip("lmdb", reason="requirements-tfds.txt is not installed")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 20, 3), dtype=np.uint8)
    with lmdb.open(str(tmp_path / "lsun")) as database, database.begin(write=True) as transaction:
        for i, image in enumerate(pixels):
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "WEBP", lossless=True)
            transaction.put(f"key{i}".encode(), buffer.getvalue())
    origin = packing.lsun_origin(tmp_path / "lsun", 16, 3)
    assert origin.count == 3
    for number in range(3):
        np.testing.assert_array_equal(origin.read(number)[0], pixels[number][:, 2:18])


def test_packed_source_refuses_files_that_do_not_fit(tmp_path):
    with pytest.raises(ValueError, match="has no packed split 'train'"):
        load_source(_options(tmp_path))
    writer = PackedWriter(tmp_path / "train", (4, 4, 1), {})
    for i in range(3):
        writer.add(np.full((4, 4, 1), i, np.uint8), i)
    writer.finish(("a", "b", "c"))
    options = _options(tmp_path, image_size=4, channels=1)
    assert len(load_source(options)) == 3
    info = json.loads((tmp_path / "train" / "info.json").read_text())
    (tmp_path / "train" / "info.json").write_text(json.dumps({**info, "count": 2}))
    with pytest.raises(ValueError, match=r"images\.bin has 48 bytes, but 32 fit what info\.json"):
        load_source(options)
    (tmp_path / "train" / "info.json").write_text(json.dumps({**info, "format_version": 9}))
    with pytest.raises(ValueError, match="format version 9"):
        load_source(options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": -1}, "count=-1, expected 1 to"),
        ({"count": 0}, "count=0"),
        ({"count": True}, "count=True"),
        ({"count": 1e9}, "count=1000000000.0"),
        ({"count": 10**30}, "count=1000000"),
        ({"count": 2**39}, "but 8,796,093,022,208 fit"),
        ({"image_size": "/etc/passwd"}, "image_size='/etc/passwd'"),
        ({"channels": None}, "channels=None"),
        ({"class_names": "abc"}, "class_names that are no list"),
        ({"class_names": ["a"]}, "labels from 0 to 2 do not fit the 1 classes"),
        ({"origin": [1]}, "an origin that is no record"),
    ],
)
def test_packed_source_refuses_a_record_that_nobody_would_write(tmp_path, changes, message):
    _write(tmp_path / "train")
    record = tmp_path / "train" / "info.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), **changes}))
    with pytest.raises(UsageError, match=re.escape(message)):
        load_source(_options(tmp_path, image_size=4, channels=1))


def test_packed_source_refuses_files_that_are_none(tmp_path):
    options = _options(tmp_path, image_size=4, channels=1)
    for name in ("info.json", "images.bin", "labels.bin"):
        _write(tmp_path / "train")
        (tmp_path / "train" / name).unlink()
        os.mkfifo(tmp_path / "train" / name)
        with pytest.raises(UsageError, match="it is not a regular file"):
            load_source(options)
        (tmp_path / "train" / name).unlink()
        (tmp_path / "train" / "info.json").unlink(missing_ok=True)
    (tmp_path / "train" / "info.json").write_text("[" * 100_000)
    with pytest.raises(UsageError, match="is nested too deeply"):
        load_source(options)


def test_packed_record_leads_nowhere(tmp_path, monkeypatch):
    _write(tmp_path / "train")
    record = tmp_path / "train" / "info.json"
    elsewhere = {"source": "/etc/passwd", "names": "../../x"}
    names = ["/etc/passwd", "../../x", "a"]
    changed = {**json.loads(record.read_text()), "origin": elsewhere, "class_names": names}
    record.write_text(json.dumps({**changed, "images": "/etc/passwd", "path": "/etc/passwd"}))
    opened = []
    monkeypatch.setattr("iddpm_jax.data.packed.open_regular", _noting(opened, open_regular))
    source = load_source(_options(tmp_path, image_size=4, channels=1))
    assert _all(source)[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert {path.parent for path in opened} == {tmp_path / "train"}
    assert source.class_names == tuple(names)


def _noting(noted, function):
    def call(path, *arguments):
        noted.append(path)
        return function(path, *arguments)

    return call


def test_packed_images_that_are_cut_short_are_an_error_and_not_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr("iddpm_jax.data.reading._PAUSES", (0.0,))
    _write(tmp_path / "train")
    source = load_source(_options(tmp_path, image_size=4, channels=1))
    os.truncate(tmp_path / "train" / "images.bin", 20)
    assert source[0]["image"].max() == 0
    with pytest.raises(ReadError, match=r"images\.bin cannot be read.*ends before image 1"):
        _all(source)


def test_packed_batch_is_what_was_written_whatever_part(tmp_path):
    _write(tmp_path / "train")
    source = load_source(_options(tmp_path, image_size=4, channels=1, split="train[1:]"))
    batch = source.batch(np.array([1, 0, 1]))
    assert batch["image"][:, 3, 3, 0].tolist() == [2, 1, 2]
    assert batch["label"].tolist() == [2, 1, 2]
    assert source[1]["image"][0, 0, 0] == 2
    with pytest.raises(IndexError):
        source.batch(np.array([2]))


def test_packed_writer_follows_no_link_and_removes_nothing_of_others(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in (".lock", "images.bin"):
        folder = tmp_path / f"linked{name}"
        folder.mkdir()
        (folder / name).symlink_to(victim)
        with pytest.raises(UsageError, match="cannot be written"):
            PackedWriter(folder, (4, 4, 1), {})
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with pytest.raises(UsageError, match="cannot be written"):
            PackedWriter(folder, (4, 4, 1), {})
    assert victim.read_text() == "precious"
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "notes.txt").write_text("precious")
    empty = PackedWriter(folder, (4, 4, 1), {})
    with pytest.raises(UsageError, match="no image that can be used"):
        empty.finish(())
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_packed_writer_says_that_the_disk_is_full_and_continues(tmp_path, monkeypatch):
    writer = PackedWriter(tmp_path / "train", (4, 4, 1), {})

    def full(file, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr("iddpm_jax.data.packed_writer._write_all", full)
        with pytest.raises(UsageError, match="cannot be written: No space left on device; once"):
            writer.add(np.zeros((4, 4, 1), np.uint8), 0)
    writer.close()
    _write(tmp_path / "train")


def test_pack_ends_where_the_system_fails_and_leaves_no_image_out(tmp_path, monkeypatch):
    monkeypatch.setattr("iddpm_jax.data.reading._PAUSES", (0.0,))

    def read(number):
        if number == 1:
            raise OSError(errno.EIO, "Input/output error")
        return np.zeros((4, 4, 1), np.uint8), 0

    writer = PackedWriter(tmp_path / "train", (4, 4, 1), {})
    with pytest.raises(ReadError, match="Input/output error"):
        packing.pack(packing.Origin(2, read, str, ()), writer, 1)
    writer.close()
    assert not (tmp_path / "train" / "info.json").exists()


def test_lsun_that_is_truncated_is_refused_before_it_is_mapped(tmp_path):
    lmdb = pytest.importorskip("lmdb", reason="requirements-tfds.txt is not installed")
    with lmdb.open(str(tmp_path / "lsun"), map_size=2**24) as database:
        for i in range(4):
            with database.begin(write=True) as transaction:
                transaction.put(f"key{i}".encode(), bytes(2**20))
    file = tmp_path / "lsun" / "data.mdb"
    assert packing.lsun_origin(tmp_path / "lsun", 4, 3).count == 4
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(UsageError, match="is truncated, or still being written"):
        packing.lsun_origin(tmp_path / "lsun", 4, 3)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(UsageError, match="is no file"):
        packing.lsun_origin(tmp_path / "lsun", 4, 3)


def test_prepare_data_refuses_in_one_line(tmp_path):
    wrong = {
        "needs --source": ["folder"],
        "does not exist": ["folder", f"--source={tmp_path / 'absent'}", f"--out={tmp_path}"],
        "has no images": ["folder", f"--source={tmp_path}", f"--out={tmp_path / 'out'}"],
        "'tfds:no_such_set' cannot be opened": ["no_such_set"],
        "'b' is not a flag": ["a", "b"],
        "--split='../x' must be of letters": [
            *("folder", f"--source={tmp_path}", f"--out={tmp_path}", "--split=../x"),
        ],
    }
    for message, arguments in wrong.items():
        result = run(["-m", "iddpm_jax.prepare_data", *arguments])
        assert result.returncode == (2 if "See --help" in result.stderr else 1), message
        assert message in result.stderr
        assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def _packed(folder, *origin):
    writer = PackedWriter(folder, (4, 4, 1), dict(origin))
    writer.add(np.zeros((4, 4, 1), np.uint8), 0)
    writer.finish(())
    return load_source(_options(folder.parent, split=folder.name, image_size=4, channels=1))


def test_fingerprint_of_packed_images_is_that_of_what_was_packed(tmp_path):
    names = ("names", "ab12")
    first = _packed(tmp_path / "a", ("source", "/here"), names)
    moved = _packed(tmp_path / "b", ("source", "/there"), names)
    other = _packed(tmp_path / "c", ("source", "/here"), ("names", "ab13"))
    assert first.fingerprint == moved.fingerprint != other.fingerprint
