"""From the section `diffusion` of a configuration to the process, checked."""

import ml_collections
import numpy as np
from absl import logging

from iddpm_jax import diffusion as dm
from iddpm_jax.config import user_code, user_parts
from iddpm_jax.errors import UsageError


def build_betas(config: ml_collections.ConfigDict) -> np.ndarray:
    """The schedule, float64 `[T]`.

    Raises:
      UsageError: it cannot be built, or is of the user's own and not that of training any more.
    """
    c = config.diffusion
    if not user_code.names_code("diffusion.noise_schedule", c.noise_schedule):
        return dm.beta_schedule(c.noise_schedule, c.steps)
    betas = user_parts.user_betas(c.noise_schedule, c.steps)
    digest = user_parts.schedule_digest(betas)
    if c.schedule_digest not in ("", digest):
        raise UsageError(
            f"diffusion.noise_schedule={c.noise_schedule!r} gives another schedule than it did in "
            f"training: its digest is {digest}, diffusion.schedule_digest={c.schedule_digest!r}"
        )
    return betas


def with_schedule_digest(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The configuration, with the digest of a schedule of the user's own filled in."""
    if is_continuous(config) or not user_code.names_code(
        "diffusion.noise_schedule", config.diffusion.noise_schedule
    ):
        return config
    config = config.copy_and_resolve_references()
    config.diffusion.schedule_digest = user_parts.schedule_digest(build_betas(config))
    return config


def is_continuous(config: ml_collections.ConfigDict) -> bool:
    """Whether the process is one in continuous time; UsageError if it is of no known kind."""
    process = config.diffusion.process
    if process not in ("discrete", "continuous"):
        raise UsageError(f"diffusion.process={process!r}: choose discrete or continuous")
    return process == "continuous"


def build_continuous(config: ml_collections.ConfigDict) -> dm.ContinuousDiffusion:
    """The process in continuous time; UsageError if a key of `diffusion` cannot be used with it."""
    c = config.diffusion
    wrong = [key for key in ("learn_sigma", "use_kl", "predict_xstart") if c[key]]
    if wrong:
        raise UsageError(
            f"diffusion.{wrong[0]}=True is for a discrete process; a continuous one predicts ε"
        )
    return dm.make_continuous(c.noise_schedule, c.loss)


def build_diffusion(
    config: ml_collections.ConfigDict,
    respacing: str = "",
    searched: dm.SearchedTimesteps | None = None,
) -> dm.GaussianDiffusion:
    """The process to sample from.

    Args:
      respacing: which of its steps, as `space_timesteps` reads it; empty for all. Of a process in
        continuous time the number of steps; empty for `diffusion.steps`.
      searched: the timesteps of `dp25` and its like, by their number; None where there are none.

    Raises:
      UsageError: a key of `diffusion` or the respacing cannot be used.
    """
    c = config.diffusion
    if is_continuous(config):
        steps = dm.count_of_continuous_steps(respacing) if respacing else c.steps
        return dm.discretise(build_continuous(config), steps)
    if c.loss != "l2":
        raise UsageError(f"diffusion.loss={c.loss!r} is for diffusion.process='continuous'")
    if c.use_kl:
        loss_type = dm.LossType.RESCALED_KL
    else:
        loss_type = dm.LossType.RESCALED_MSE if c.rescale_learned_sigmas else dm.LossType.MSE
    if c.learn_sigma:
        var_type = dm.VarType.LEARNED_RANGE
    else:
        var_type = dm.VarType.FIXED_SMALL if c.sigma_small else dm.VarType.FIXED_LARGE
    if c.learn_sigma and c.sigma_small:
        raise UsageError("diffusion.sigma_small=True has no effect with learn_sigma=True")
    betas = build_betas(config)
    keep = None
    if respacing:
        keep = dm.space_timesteps(betas.size, respacing, betas=betas, searched=searched)
    if keep is not None and c.predict_xstart and c.learn_sigma:
        logging.warning(
            "diffusion.predict_xstart=True with learn_sigma=True: on respaced timesteps ancestral "
            "sampling (ddpm) has far too large a variance near the data, in the reference, too; "
            "sample with ddim (eta=1 for noise), or with all timesteps"
        )
    return dm.make_diffusion(
        betas,
        mean_type=dm.MeanType.X_START if c.predict_xstart else dm.MeanType.EPSILON,
        var_type=var_type,
        loss_type=loss_type,
        rescale_timesteps=c.rescale_timesteps,
        keep_timesteps=keep,
    )
