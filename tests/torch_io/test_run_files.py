import pathlib

import pytest

from iddpm_jax.errors import UsageError
from iddpm_jax.torch_io.run_files import FileName, find_run, parse_name, training_steps


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model000003.pt", FileName(3, None)),
        ("opt1234567.safetensors", FileName(1234567, None)),
        ("ema_0.9990_000003.pt", FileName(3, "0.999")),
        ("ema_1_000003.pt", FileName(3, "1.0")),
        ("model3.pt", FileName(None, None)),
        ("cifar10_uncond_50M_500K.pt", FileName(None, None)),
    ],
)
def test_parse_name_reads_what_the_reference_writes(name, expected):
    assert parse_name(pathlib.Path("runs") / name) == expected


def test_find_run_takes_averages_one_by_one_or_with_commas():
    names = ["ema_0.9_000003.pt", "ema_0.99_000003.pt"]
    for ema in (names, [",".join(names)]):
        files = find_run("model000003.pt", ema, "opt000003.pt")
        assert {rate: path.name for rate, path in files.ema.items()} == dict(
            zip(("0.9", "0.99"), names, strict=True)
        )
        assert [path.name for path in files.paths()] == [
            "model000003.pt",
            *names,
            "opt000003.pt",
        ]
    with pytest.raises(UsageError, match=r"are of the same rate 0\.9"):
        find_run("model000003.pt", ["ema_0.9_000003.pt", "ema_0.90_000003.pt"], None)


def test_run_files_tell_somebodys_training_from_a_download():
    assert not find_run("cifar10_uncond_50M_500K.pt", [], None).is_own_run()
    assert find_run("model000003.pt", [], None).is_own_run()
    assert find_run("weights.pt", [], "opt.pt").is_own_run()


def test_training_steps_are_those_of_the_names_or_as_given():
    named, plain = find_run("model000003.pt", [], None), find_run("weights.pt", [], None)
    assert training_steps(named, None, "") == training_steps(named, 3, "") == 3
    assert training_steps(plain, 5, "") == 5
    assert training_steps(plain, None, "") == 0
    assert training_steps(plain, None, "upsample_cond_500K") == 500_000
    with pytest.raises(UsageError, match="--step=4, but the files are of step 3"):
        training_steps(named, 4, "")
    with pytest.raises(UsageError, match="is more than"):
        training_steps(plain, 2**31, "")
