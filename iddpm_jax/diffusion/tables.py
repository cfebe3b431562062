"""The tables of a diffusion process, and the three choices that complete it.

Axis letters: B batch, H W C image, T diffusion steps.
"""

import dataclasses
import enum
import functools
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Float64, Int

from iddpm_jax.diffusion.respacing import half_log_snr, respaced_betas
from iddpm_jax.diffusion.schedules import REFERENCE_NUM_TIMESTEPS, check_betas
from iddpm_jax.diffusion.shapes import Betas, PerStep
from iddpm_jax.errors import UsageError

Choice = TypeVar("Choice", bound=enum.StrEnum)


class MeanType(enum.StrEnum):
    """What the network predicts."""

    EPSILON = "epsilon"  # the noise ε
    X_START = "x_start"  # the image x_0
    X_PREV = "x_prev"  # the mean of x_{t-1}


class VarType(enum.StrEnum):
    """The variance of p_θ(x_{t-1} | x_t)."""

    LEARNED = "learned"  # the network predicts log σ²
    LEARNED_RANGE = "learned_range"  # it interpolates between log β̃ and log β (IDDPM, eq. 15)
    FIXED_SMALL = "fixed_small"  # β̃, the variance of the posterior
    FIXED_LARGE = "fixed_large"  # β

    @property
    def is_learned(self) -> bool:
        return self in (VarType.LEARNED, VarType.LEARNED_RANGE)


class LossType(enum.StrEnum):
    """What training minimises."""

    MSE = "mse"  # L_simple, plus the vb term where the variance is learned
    RESCALED_MSE = "rescaled_mse"  # L_hybrid: that vb term weighted by T / 1000
    KL = "kl"  # one term of L_vlb
    RESCALED_KL = "rescaled_kl"  # T times that: an unbiased estimate of L_vlb

    @property
    def is_vb(self) -> bool:
        return self in (LossType.KL, LossType.RESCALED_KL)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "betas",
        "log_betas",
        "alphas_cumprod",
        "alphas_cumprod_prev",
        "alphas_cumprod_next",
        "sqrt_alphas_cumprod",
        "one_minus_alphas_cumprod",
        "sqrt_one_minus_alphas_cumprod",
        "log_one_minus_alphas_cumprod",
        "sqrt_recip_alphas_cumprod",
        "sqrt_recipm1_alphas_cumprod",
        "posterior_variance",
        "posterior_log_variance_clipped",
        "posterior_mean_coef1",
        "posterior_mean_coef2",
        "xstart_from_xprev_coef1",
        "xstart_from_xprev_coef2",
        "fixed_large_variance",
        "fixed_large_log_variance",
        "ddim_variance",
        "half_log_snr",
        "model_timesteps",
    ],
    meta_fields=["mean_type", "var_type", "loss_type"],
)
@dataclasses.dataclass(frozen=True)
class GaussianDiffusion:
    """Tables of a diffusion process, float32 `[T]` each, and three static choices.

    Make one with `make_diffusion`. It is a pytree: the tables are its leaves, so it may
    be an argument of a jitted function, and the choices are part of its structure.
    """

    betas: PerStep
    log_betas: PerStep
    alphas_cumprod: PerStep  # ᾱ_t
    alphas_cumprod_prev: PerStep  # ᾱ_{t-1}, 1 at t = 0
    alphas_cumprod_next: PerStep  # ᾱ_{t+1}, 0 at t = T - 1
    sqrt_alphas_cumprod: PerStep
    one_minus_alphas_cumprod: PerStep
    sqrt_one_minus_alphas_cumprod: PerStep
    log_one_minus_alphas_cumprod: PerStep
    sqrt_recip_alphas_cumprod: PerStep  # √(1 / ᾱ_t)
    sqrt_recipm1_alphas_cumprod: PerStep  # √(1 / ᾱ_t - 1)
    posterior_variance: PerStep  # β̃_t, 0 at t = 0
    posterior_log_variance_clipped: PerStep  # its log, that of t = 1 at t = 0
    posterior_mean_coef1: PerStep  # factor of x_0 in μ̃
    posterior_mean_coef2: PerStep  # factor of x_t in μ̃
    xstart_from_xprev_coef1: PerStep  # 1 / coef1
    xstart_from_xprev_coef2: PerStep  # coef2 / coef1
    fixed_large_variance: PerStep  # β_t, but β̃_1 at t = 0 for a better decoder likelihood
    fixed_large_log_variance: PerStep
    ddim_variance: PerStep  # σ² of DDIM at η = 1
    half_log_snr: PerStep  # λ_t = log(√ᾱ_t / √(1 - ᾱ_t))
    model_timesteps: PerStep  # what the network is called with at step t
    mean_type: MeanType
    var_type: VarType
    loss_type: LossType

    @property
    def num_timesteps(self) -> int:
        return self.betas.shape[0]


def make_diffusion(
    betas: Float64[np.ndarray, "..."],
    *,
    mean_type: MeanType | str,
    var_type: VarType | str,
    loss_type: LossType | str,
    rescale_timesteps: bool = False,
    keep_timesteps: Int[np.ndarray, "..."] | None = None,
) -> GaussianDiffusion:
    """Builds a process from its schedule. All tables are computed in float64.

    Args:
      betas: the full schedule, float64 `[T]`.
      mean_type: `epsilon`, `x_start` or `x_prev`.
      var_type: `learned`, `learned_range`, `fixed_small` or `fixed_large`.
      loss_type: `mse`, `rescaled_mse`, `kl` or `rescaled_kl`.
      rescale_timesteps: tell the network t · 1000 / T instead of t.
      keep_timesteps: indices to keep, as from `space_timesteps`; None keeps all. The
        network goes on being called with the timesteps of the full process.

    Raises:
      UsageError: an unknown type, a β outside (0, 1), kept timesteps out of range or
        unsorted, or fewer than two steps (the first variance is that of the second step).
    """
    betas = np.asarray(betas, dtype=np.float64)
    check_betas(betas, "make_diffusion")
    if betas.max() == 1:
        raise UsageError(
            f"beta[{betas.argmax()}] of {betas.size} is 1, after which no signal is left and the "
            "tables are infinite; use more timesteps"
        )
    kept = np.arange(betas.size) if keep_timesteps is None else np.asarray(keep_timesteps)
    if kept.ndim != 1 or (np.diff(kept) <= 0).any() or kept.min(initial=0) < 0:
        raise UsageError(f"keep_timesteps must be sorted and distinct, got {kept.tolist()}")
    if kept.size < 2:
        raise UsageError(
            f"a diffusion process needs at least 2 timesteps, got {kept.size} (of {betas.size}): "
            "the variance at the first step is taken from the second"
        )
    if kept[-1] >= betas.size:
        raise UsageError(f"keep_timesteps has {kept[-1]}, but the schedule has {betas.size} steps")
    timestep_scale = REFERENCE_NUM_TIMESTEPS / betas.size if rescale_timesteps else 1.0
    tables = _tables(betas if keep_timesteps is None else respaced_betas(betas, kept))
    # Scaled in float32, as the reference does it, so that the network sees the same bits.
    model_timesteps = kept.astype(np.float32) * np.float32(timestep_scale)
    return GaussianDiffusion(
        **{name: jnp.asarray(table, dtype=jnp.float32) for name, table in tables.items()},
        ddim_variance=jnp.asarray(_ddim_variance(tables)),
        model_timesteps=jnp.asarray(model_timesteps),
        mean_type=_member(MeanType, mean_type),
        var_type=_member(VarType, var_type),
        loss_type=_member(LossType, loss_type),
    )


def _member(kind: type[Choice], value: str) -> Choice:
    try:
        return kind(value)
    except ValueError:
        raise UsageError(
            f"unknown {kind.__name__} {str(value)!r}: choose one of {', '.join(kind)}"
        ) from None


def _tables(betas: Betas) -> dict[str, Betas]:
    """Every table that depends on the schedule alone, float64 `[T]`."""
    alphas = 1.0 - betas
    alphas_cumprod = np.cumprod(alphas)
    alphas_cumprod_prev = np.append(1.0, alphas_cumprod[:-1])
    one_minus = 1.0 - alphas_cumprod
    # DDPM, eq. 7.
    posterior_variance = betas * (1.0 - alphas_cumprod_prev) / one_minus
    coef1 = betas * np.sqrt(alphas_cumprod_prev) / one_minus
    coef2 = (1.0 - alphas_cumprod_prev) * np.sqrt(alphas) / one_minus
    fixed_large = np.append(posterior_variance[1], betas[1:])
    return {
        "betas": betas,
        "log_betas": np.log(betas),
        "alphas_cumprod": alphas_cumprod,
        "alphas_cumprod_prev": alphas_cumprod_prev,
        "alphas_cumprod_next": np.append(alphas_cumprod[1:], 0.0),
        "sqrt_alphas_cumprod": np.sqrt(alphas_cumprod),
        "one_minus_alphas_cumprod": one_minus,
        "sqrt_one_minus_alphas_cumprod": np.sqrt(one_minus),
        "log_one_minus_alphas_cumprod": np.log(one_minus),
        "sqrt_recip_alphas_cumprod": np.sqrt(1.0 / alphas_cumprod),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1.0 / alphas_cumprod - 1.0),
        "posterior_variance": posterior_variance,
        # β̃ is 0 at t = 0, where its logarithm would be -inf.
        "posterior_log_variance_clipped": np.log(
            np.append(posterior_variance[1], posterior_variance[1:])
        ),
        "posterior_mean_coef1": coef1,
        "posterior_mean_coef2": coef2,
        "xstart_from_xprev_coef1": 1.0 / coef1,
        "xstart_from_xprev_coef2": coef2 / coef1,
        "half_log_snr": half_log_snr(alphas_cumprod),
        "fixed_large_variance": fixed_large,
        "fixed_large_log_variance": np.log(fixed_large),
    }


def _ddim_variance(tables: dict[str, Betas]) -> Float32[np.ndarray, " T"]:
    """σ² = (1 - ᾱ_{t-1}) / (1 - ᾱ_t) · (1 - ᾱ_t / ᾱ_{t-1}) (DDIM, eq. 16 with η = 1).

    In float32 and in the reference's order of operations, unlike the other tables: a
    sampler subtracts it from 1 - ᾱ_{t-1}, which at noisy timesteps leaves little more than
    its rounding, and whole trajectories depend on that.
    """
    alpha_bar = tables["alphas_cumprod"].astype(np.float32)
    alpha_bar_prev = tables["alphas_cumprod_prev"].astype(np.float32)
    one = np.float32(1)
    sigma = np.sqrt((one - alpha_bar_prev) / (one - alpha_bar)) * np.sqrt(
        one - alpha_bar / alpha_bar_prev
    )
    return np.square(sigma)
