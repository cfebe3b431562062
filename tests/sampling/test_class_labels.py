import pytest

from iddpm_jax.errors import UsageError
from iddpm_jax.sampling.class_labels import label_numbers


@pytest.mark.parametrize(
    ("given", "names", "expected"),
    [
        (None, ("cat", "dog"), None),
        (["dog", "cat", "1"], ("cat", "dog"), [1, 0, 1]),
        ([" dog"], ("cat", "dog"), [1]),
        (["10", "20", "1"], ("10", "20"), [0, 1, 1]),  # 10 can be no number of a class.
        (["1"], ("1", "0"), [1]),  # A number, although there is a class of that name.
        (["7"], ("cat",), [7]),  # Refused with the others that are outside.
        (["3"], (), [3]),
    ],
)
def test_label_numbers_takes_numbers_and_names(given, names, expected):
    assert label_numbers(given, names) == expected


@pytest.mark.parametrize(
    ("given", "names", "message"),
    [
        (["cow"], ("cat", "dog"), "no class of that name; it has cat, dog, or by number 0 to 1"),
        (["0.5"], ("cat",), "--labels=0.5: the model has no class"),
        (["9" * 5000], ("cat",), "no class of that name"),
        (["x"], tuple("abcdefghijklmn"), r"it has a, b, c, d, e, f, g, h, i, j, …, or by"),
        (["cat"], (), "--labels=cat, but the model is unconditional"),
        ([], ("cat",), "--labels is empty"),
    ],
)
def test_label_numbers_says_what_classes_there_are(given, names, message):
    with pytest.raises(UsageError, match=message):
        label_numbers(given, names)
