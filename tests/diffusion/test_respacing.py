import numpy as np
import pytest

from iddpm_jax import diffusion


def test_space_timesteps_takes_sequences_like_strings():
    spaced = diffusion.space_timesteps(300, [10, 15, 20])
    np.testing.assert_array_equal(spaced, diffusion.space_timesteps(300, "10,15,20"))


def test_respaced_betas_keep_alphas_cumprod():
    betas = diffusion.beta_schedule("cosine", 1000)
    kept = diffusion.space_timesteps(1000, "50")
    respaced = diffusion.respaced_betas(betas, kept)
    # 1 - beta loses digits where beta is next to 1.
    np.testing.assert_allclose(np.cumprod(1 - respaced), np.cumprod(1 - betas)[kept], rtol=1e-10)


@pytest.mark.parametrize(
    ("steps", "spec", "message"),
    [
        (1000, "ddim999", r"'ddim999'.*1000 timesteps gives 999.*ddim334, ddim500, ddim1000"),
        (10, "11", r"'11'.*has 10 of the 10 timesteps and cannot keep 11"),
        (10, "6,6", r"section 0 of 2 has 5 of the 10 timesteps and cannot keep 6"),
        (10, "ten", r"'ten' cannot be read"),
        (10, "ddimx", r"'ddimx' cannot be read"),
        (10, "", r"'' cannot be read"),
        (10, "5,-1", r"negative"),
        (10, "0", r"keeps no timestep"),
    ],
)
def test_space_timesteps_refuses_what_cannot_be_made(steps, spec, message):
    with pytest.raises(ValueError, match=message):
        diffusion.space_timesteps(steps, spec)
