import pathlib

import pytest

from iddpm_jax.errors import UsageError
from iddpm_jax.torch_io.files import Moments
from iddpm_jax.torch_io.run_files import find_run
from iddpm_jax.torch_io.training_values import ema_rates, num_steps, optimizer_options

VALUES = {
    "train.ema_rate": (0.9999,),
    "train.lr": 1e-4,
    "train.weight_decay": 0.0,
    "train.lr_anneal_steps": 0,
    "train.num_steps": None,
}
MOMENTS = Moments(3, {}, {}, lr=0.5, weight_decay=0.25)


def test_ema_rates_are_those_of_the_files_unless_chosen():
    averages = find_run("model000003.pt", ["ema_0.9_000003.pt"], None)
    assert ema_rates(VALUES, averages, are_chosen=False) == (0.9,)
    own = find_run("ema_0.5_000003.pt", [], None)
    assert ema_rates(VALUES, own, are_chosen=False) == (0.5,)
    assert ema_rates(VALUES, own, are_chosen=True) == (0.9999,)
    assert ema_rates(VALUES, find_run("weights.pt", [], None), are_chosen=False) == (0.9999,)
    with pytest.raises(UsageError, match=r"a file of rate 0\.9, but train.ema_rate=\(0\.9999,\)"):
        ema_rates(VALUES, averages, are_chosen=True)


def test_optimizer_options_are_those_of_the_file(capsys):
    path = pathlib.Path("opt000003.pt")
    expected = {"train.weight_decay": 0.25, "train.lr": 0.5}
    assert optimizer_options(VALUES, MOMENTS, path, ()) == expected
    assert "train.lr=0.5 is that of opt000003.pt; the configuration had" in capsys.readouterr().out
    # Where the rate decays, the file has that of a moment.
    annealed = VALUES | {"train.lr_anneal_steps": 9}
    assert optimizer_options(annealed, MOMENTS, path, ()) == {"train.weight_decay": 0.25}
    with pytest.raises(UsageError, match=r"train.lr=0\.0001 is asked for, but opt000003.pt has 0"):
        optimizer_options(VALUES, MOMENTS, path, {"train.lr"})


@pytest.mark.parametrize(
    ("configured", "anneal_steps", "step", "end"),
    [
        (None, 0, 0, None),
        (None, 0, 3, 3),
        (9, 0, 3, 9),
        (2, 0, 3, 3),
        (None, 9, 3, 9),
        (5, 4, 3, 4),
    ],
)
def test_num_steps_end_where_the_run_stands_or_its_rate_ends(configured, anneal_steps, step, end):
    values = VALUES | {"train.num_steps": configured, "train.lr_anneal_steps": anneal_steps}
    assert num_steps(values, step, ()) == end
    assert num_steps(values, step, {"train.num_steps"}) == configured
