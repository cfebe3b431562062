import os

import pytest

from iddpm_jax.errors import UsageError
from iddpm_jax.files import untrusted


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"{", "it is no JSON"),
        (b"", "it is no JSON"),
        (b"[" * 100_000, "it is nested too deeply"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "it is nested too deeply"),
        (b"[" * 65 + b"]" * 65, "it is nested too deeply"),
        (b"1" * 5000, "it is no JSON"),  # Python refuses to read a number of so many digits.
        (b'"\xff"', "it is no text"),
        (b" " * (untrusted.LARGEST_TEXT + 1), "it has more than 16,777,216 bytes"),
    ],
)
def test_read_json_refuses_in_one_line(tmp_path, data, reason):
    file = tmp_path / "record.json"
    file.write_bytes(data)
    with pytest.raises(
        UsageError, match=rf"the record .*record.json cannot be read: {reason}"
    ) as e:
        untrusted.read_json(file, "the record")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "No such file"),
        (os.mkdir, "not a regular file"),
        (os.mkfifo, "not a regular file"),  # And does not wait for somebody to write to it.
        (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
    ],
)
def test_read_json_takes_regular_files_only(tmp_path, make, reason):
    file = tmp_path / "record.json"
    make(file)
    with pytest.raises(UsageError, match=f"record.json cannot be read: .*{reason}"):
        untrusted.read_json(file, "the record")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cat", "cat"),
        ("v1.2-final_x", "v1.2-final_x"),
        ("Größe", "Größe"),
        ("猫", "猫"),
        ("a cat, black", "a_cat_black"),
        ("/../../etc/passwd", "_____etc_passwd"),
        ("..", "_"),
        (".hidden", "hidden"),
        ("", "_"),
        ("\0\n\r\x1b[2J", "_2J"),
        ("\ud800", "_"),
        ("C:\\x", "C_x"),
        ("é" * 1000, "é" * 40),
        ("a" * 79 + "é", "a" * 79),
    ],
)
def test_safe_file_name_is_one_component_that_says_the_name(tmp_path, name, expected):
    assert untrusted.safe_file_name(name) == expected
    (tmp_path / f"{expected}.png").write_bytes(b"")
    assert os.listdir(tmp_path) == [f"{expected}.png"]
