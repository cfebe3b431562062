"""The diffusion process: schedules, losses, likelihood and samplers as pure functions.

Only numpy and jax are imported here. Nothing in this package knows of networks,
configurations or files, and its mathematics takes noise, never a random key.
"""

from iddpm_jax.diffusion.continuous import (
    ContinuousDiffusion,
    NoiseLoss,
    add_noise,
    discretise,
    make_continuous,
    rates,
    uniform_times,
)
from iddpm_jax.diffusion.gaussian import (
    PMeanVariance,
    extract,
    model_timestep,
    p_mean_variance,
    p_mean_variance_from_output,
    predict_eps_from_xstart,
    predict_xstart_from_eps,
    predict_xstart_from_xprev,
    q_mean_variance,
    q_posterior_mean_variance,
    q_sample,
)
from iddpm_jax.diffusion.likelihood import (
    bpd_loop,
    bpd_terms,
    discretized_gaussian_log_likelihood,
    mean_flat,
    normal_kl,
    prior_bpd,
    vb_terms_bpd,
)
from iddpm_jax.diffusion.losses import training_loss_names, training_losses
from iddpm_jax.diffusion.noise import (
    Stream,
    initial_noise,
    per_sample_keys,
    per_sample_noise,
    stream,
    stream_keys,
)
from iddpm_jax.diffusion.respacing import (
    log_snr_timesteps,
    respaced_betas,
    space_timesteps,
)
from iddpm_jax.diffusion.samplers import (
    ddim_reverse_step,
    ddim_step,
    ddpm_step,
    dpm_solver_step,
    sample_loop,
    sample_steps,
)
from iddpm_jax.diffusion.schedules import (
    REFERENCE_NUM_TIMESTEPS,
    beta_schedule,
    beta_schedule_names,
)
from iddpm_jax.diffusion.step_search import (
    Costs,
    PairTables,
    best_timesteps,
    check_searchable,
    pair_tables,
    prior_costs,
    transition_costs,
)
from iddpm_jax.diffusion.tables import (
    GaussianDiffusion,
    LossType,
    MeanType,
    VarType,
    make_diffusion,
)
from iddpm_jax.diffusion.timestep_samplers import TimestepSampler, timestep_sampler

__all__ = [
    "REFERENCE_NUM_TIMESTEPS",
    "ContinuousDiffusion",
    "Costs",
    "GaussianDiffusion",
    "LossType",
    "MeanType",
    "NoiseLoss",
    "PMeanVariance",
    "PairTables",
    "Stream",
    "TimestepSampler",
    "VarType",
    "add_noise",
    "best_timesteps",
    "beta_schedule",
    "beta_schedule_names",
    "bpd_loop",
    "bpd_terms",
    "check_searchable",
    "ddim_reverse_step",
    "ddim_step",
    "ddpm_step",
    "discretise",
    "discretized_gaussian_log_likelihood",
    "dpm_solver_step",
    "extract",
    "initial_noise",
    "log_snr_timesteps",
    "make_continuous",
    "make_diffusion",
    "mean_flat",
    "model_timestep",
    "normal_kl",
    "p_mean_variance",
    "p_mean_variance_from_output",
    "pair_tables",
    "per_sample_keys",
    "per_sample_noise",
    "predict_eps_from_xstart",
    "predict_xstart_from_eps",
    "predict_xstart_from_xprev",
    "prior_bpd",
    "prior_costs",
    "q_mean_variance",
    "q_posterior_mean_variance",
    "q_sample",
    "rates",
    "respaced_betas",
    "sample_loop",
    "sample_steps",
    "space_timesteps",
    "stream",
    "stream_keys",
    "timestep_sampler",
    "training_loss_names",
    "training_losses",
    "transition_costs",
    "uniform_times",
    "vb_terms_bpd",
]
