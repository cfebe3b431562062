import re

import numpy as np
import pytest

from iddpm_jax import diffusion
from iddpm_jax.diffusion.respacing import SPACING_NAMES


def test_space_timesteps_takes_sequences_like_strings():
    spaced = diffusion.space_timesteps(300, [10, 15, 20])
    np.testing.assert_array_equal(spaced, diffusion.space_timesteps(300, "10,15,20"))


def test_respaced_betas_keep_alphas_cumprod():
    betas = diffusion.beta_schedule("cosine", 1000)
    kept = diffusion.space_timesteps(1000, "50")
    respaced = diffusion.respaced_betas(betas, kept)
    # 1 - beta loses digits where beta is next to 1.
    np.testing.assert_allclose(np.cumprod(1 - respaced), np.cumprod(1 - betas)[kept], rtol=1e-10)


@pytest.mark.parametrize("steps", [2, 10, 997, 4000])
def test_space_timesteps_exact_keeps_both_ends_for_every_count(steps):
    for count in {2, 3, steps // 3 + 2, steps - 1, steps} - {1}:
        if 2 <= count <= steps:
            kept = diffusion.space_timesteps(steps, f"exact{count}")
            assert len(np.unique(kept)) == count
            assert (kept[0], kept[-1]) == (0, steps - 1)


@pytest.mark.parametrize(
    ("steps", "spec", "kept"),
    [
        (1000, "linspace5", [0, 250, 500, 749, 999]),
        (1000, "leading5", [0, 200, 400, 600, 800]),
        (1000, "trailing5", [199, 399, 599, 799, 999]),
        (10, "leading4", [0, 2, 4, 6]),
        (10, "trailing4", [1, 4, 7, 9]),
        (10, "trailing10", list(range(10))),
    ],
)
def test_space_timesteps_knows_the_spacings_of_diffusers(steps, spec, kept):
    assert diffusion.space_timesteps(steps, spec).tolist() == kept


@pytest.mark.parametrize(
    ("steps", "spec", "message"),
    [
        (10, "leading11", r"'leading11'.*11 of 10 timesteps; from 2 to 10"),
        (10, "trailing1", r"'trailing1'.*1 of 10 timesteps; from 2 to 10"),
        (1000, "ddim999", r"'ddim999'.*1000 timesteps gives 999.*ddim334, ddim500, ddim1000"),
        (10, "11", r"'11'.*has 10 of the 10 timesteps and cannot keep 11"),
        (10, "6,6", r"section 0 of 2 has 5 of the 10 timesteps and cannot keep 6"),
        (10, "ten", r"'ten' cannot be read"),
        (
            10,
            "karras5",
            "'karras5' cannot be read: give a number .* ddimN, exactN, linspaceN, leadingN, "
            "trailingN, logsnrN or dpN",
        ),
        (10, "ddimx", r"'ddimx' cannot be read: 'ddim' needs a number, as in ddim25"),
        (10, "linspace", r"'linspace' needs a number, as in linspace25"),
        (10, "", r"'' cannot be read"),
        (10, "exact11", r"'exact11'.*11 of 10 timesteps; from 2 to 10"),
        (10, "exact1", r"'exact1'.*1 of 10 timesteps; from 2 to 10"),
        (10, "logsnr5", r"'logsnr5' needs the schedule: space_timesteps\(…, betas=…\)"),
        (10, "logsnr", r"'logsnr' needs a number, as in logsnr25"),
        (10, "dp5", r"'dp5' takes timesteps from the table .*dp_respacing makes"),
        (10, "dp" + "9" * 5000, r"'dp' needs a number, as in dp25"),
        (10, "5,-1", r"negative"),
        (10, "0", r"keeps no timestep"),
    ],
)
def test_space_timesteps_refuses_what_cannot_be_made(steps, spec, message):
    with pytest.raises(ValueError, match=message):
        diffusion.space_timesteps(steps, spec)


def test_space_timesteps_lists_every_spacing():
    with pytest.raises(ValueError, match="cannot be read") as error:
        diffusion.space_timesteps(10, "karras5")
    assert re.findall(r"\b([a-z]+)N\b", str(error.value)) == list(SPACING_NAMES)


def test_space_timesteps_takes_what_only_some_spacings_need():
    betas = diffusion.beta_schedule("cosine", 50)
    np.testing.assert_array_equal(
        diffusion.space_timesteps(50, "logsnr7", betas=betas),
        diffusion.log_snr_timesteps(betas, 7),
    )
    with pytest.raises(ValueError, match=r"'logsnr7': betas are of shape \(50,\).* 40 timesteps"):
        diffusion.space_timesteps(40, "logsnr7", betas=betas)
    table = {3: [0, 20, 49]}
    assert diffusion.space_timesteps(50, "dp3", searched=table.get).tolist() == table[3]


def test_is_searched_is_true_of_what_a_search_changes():
    specs = ["", "250", "10,15", *(f"{name}25" for name in SPACING_NAMES)]
    assert [spec for spec in specs if diffusion.is_searched(spec)] == ["dp25"]


@pytest.mark.parametrize("spec", ["ddim20", "10,10", "-3", "two"])
def test_count_of_continuous_steps_is_a_number_alone(spec):
    assert diffusion.count_of_continuous_steps("20") == 20
    with pytest.raises(ValueError, match=f"{spec!r}: of a process in continuous time give the num"):
        diffusion.count_of_continuous_steps(spec)


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("steps", [50, 1000, 4000])
def test_log_snr_timesteps_are_distinct_and_even_where_there_is_room(name, steps):
    betas = diffusion.beta_schedule(name, steps)
    for count in (2, 3, 10, 25, steps - 1, steps):
        kept = diffusion.log_snr_timesteps(betas, count)
        assert kept.shape == (count,)
        assert kept[0] == 0
        assert kept[-1] < steps
        assert np.all(np.diff(kept) > 0)
    alphas_cumprod = np.cumprod(1 - betas)[diffusion.log_snr_timesteps(betas, 6)]
    half_log_snr = 0.5 * np.log(alphas_cumprod / (1 - alphas_cumprod))
    np.testing.assert_allclose(np.diff(half_log_snr[1:-1]), np.diff(half_log_snr)[2], rtol=0.15)


@pytest.mark.parametrize(("name", "steps"), [("linear", 1000), ("cosine", 4000)])
def test_log_snr_timesteps_are_the_nearest_to_an_even_spacing(name, steps):
    betas = diffusion.beta_schedule(name, steps)
    alphas_cumprod = np.cumprod(1 - betas)
    half_log_snr = 0.5 * np.log(alphas_cumprod / (1 - alphas_cumprod))
    even = np.linspace(half_log_snr[0], max(half_log_snr[-1], -5.1), 10)
    nearest = np.abs(half_log_snr[:, None] - even).argmin(axis=0)
    np.testing.assert_array_equal(diffusion.log_snr_timesteps(betas, 10), nearest)


def test_log_snr_timesteps_stay_within_the_process_where_points_crowd_at_its_end():
    betas = diffusion.beta_schedule("cosine", 20)
    kept = diffusion.log_snr_timesteps(betas, 15)
    # The last six of the 15 points have two nearest timesteps between them.
    assert kept.tolist() == [0, 1, 2, 4, 7, *range(10, 20)]
    assert diffusion.log_snr_timesteps(betas, 20).tolist() == list(range(20))


def test_log_snr_timesteps_refuses_more_than_there_are():
    with pytest.raises(ValueError, match="cannot keep 51 of 50"):
        diffusion.log_snr_timesteps(diffusion.beta_schedule("cosine", 50), 51)
