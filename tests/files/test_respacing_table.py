import numpy as np
import pytest

from iddpm_jax.errors import UsageError
from iddpm_jax.files.respacing_table import RespacingTable, save_table, searched_timesteps


@pytest.fixture
def workdir(tmp_path):
    """A table for two and three of four timesteps, of step 1,000 and EMA 0.9."""
    timesteps = np.full((4, 3), -1, np.int32)
    timesteps[2, :2], timesteps[3] = (0, 3), (0, 1, 3)
    bounds = np.array([np.inf, np.inf, 4.0, 3.0])
    save_table(tmp_path, RespacingTable(bounds, timesteps, np.int64(1000), np.str_("0.9")))
    return tmp_path


def test_searched_timesteps_are_those_of_the_table(workdir):
    assert searched_timesteps(workdir, 2, 1000, "0.9").tolist() == [0, 3]


@pytest.mark.parametrize(("step", "ema"), [(2000, "0.9"), (1000, "none")])
def test_searched_timesteps_are_of_one_model(workdir, step, ema):
    message = (
        rf"searched at step 1,000 with EMA 0.9, but the model is that of step {step:,} with EMA "
        rf"{ema}: search again \(.*dp_respacing --workdir=.* --ema={ema}\), .*\(--force\)"
    )
    with pytest.raises(UsageError, match=message) as error:
        searched_timesteps(workdir, 3, step, ema)
    assert "\n" not in str(error.value)
    assert searched_timesteps(workdir, 3, step, ema, force=True).tolist() == [0, 1, 3]


def test_searched_timesteps_refuse_what_is_not_there(workdir, tmp_path_factory):
    for count in (1, 4, 10**20):
        with pytest.raises(UsageError, match="has from dp2 to dp3"):
            searched_timesteps(workdir, count, 1000, "0.9")
    with pytest.raises(UsageError, match="has not been searched for yet"):
        searched_timesteps(tmp_path_factory.mktemp("empty"), 2, 1000, "0.9")


@pytest.mark.parametrize(
    "change",
    [
        {"step": np.zeros(2, int)},
        {"timesteps": np.zeros((4, 2), np.int32)},
        {"bounds": np.zeros((4, 1))},
        {"ema": np.float64(0.9)},
        {"timesteps": np.zeros((4, 3))},
    ],
)
def test_searched_timesteps_refuse_a_file_that_is_no_table(workdir, change):
    path = workdir / "dp_respacing.npz"
    with np.load(path) as arrays:
        np.savez(path, **(dict(arrays) | change))
    with pytest.raises(UsageError, match="holds no table of timesteps; delete it and search anew"):
        searched_timesteps(workdir, 2, 1000, "0.9")
    path.write_bytes(b"PK")
    with pytest.raises(UsageError, match=r"is damaged: .*delete it and search anew"):
        searched_timesteps(workdir, 2, 1000, "0.9")
