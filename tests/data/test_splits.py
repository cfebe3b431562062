import pytest

from iddpm_jax.data import digits_source
from iddpm_jax.data.splits import is_held_out, parse_split, slice_of


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("train", ("train", "", "")),
        ("train[:90%]", ("train", "", "90%")),
        ("test[10%:]", ("test", "10%", "")),
        ("all[-5:100]", ("all", "-5", "100")),
    ],
)
def test_parse_split_reads_bounds(spec, parts):
    assert parse_split(spec) == parts


@pytest.mark.parametrize("spec", ["", "train[]x", "train[90%]", "train[:x%]", "a b"])
def test_parse_split_refuses_what_it_cannot_read(spec):
    with pytest.raises(ValueError, match="cannot be read"):
        parse_split(spec)


@pytest.mark.parametrize("count", [1, 7, 10, 1503])
@pytest.mark.parametrize("percent", [0, 33, 50, 99, 100])
def test_slice_of_cuts_without_gap_or_overlap(count, percent):
    items = list(range(count))
    first, second = slice_of(count, "", f"{percent}%"), slice_of(count, f"{percent}%", "")
    assert items[first] + items[second] == items
    assert abs(len(items[first]) - count * percent / 100) <= 0.5


def test_slice_of_refuses_more_than_all():
    with pytest.raises(ValueError, match="101% is more than 100%"):
        slice_of(10, "", "101%")


def test_is_held_out_depends_on_the_name_alone_and_has_its_share():
    names = [f"dir/größe_{i}.png" for i in range(5000)]
    held_out = [is_held_out(name, 10.0) for name in names]
    assert 0.08 < sum(held_out) / len(names) < 0.12
    # A larger share has the smaller one inside.
    assert all(is_held_out(n, 20.0) for n, test in zip(names, held_out, strict=True) if test)
    assert not any(is_held_out(name, 0.0) for name in names)


def test_digits_can_be_cut():
    assert len(digits_source("train[:10%]")) == 150
    assert len(digits_source("test[100:]")) == 197
