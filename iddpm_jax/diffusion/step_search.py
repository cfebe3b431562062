"""The best timesteps to keep, by dynamic programming (Watson et al. 2021).

The bound of a respaced process is a sum over its transitions (Learning to efficiently sample from
diffusion probabilistic models, section 3): from t to s < t it costs the KL divergence between
q(x_s | x_t, x_0) and p_θ(x_s | x_t), which depends on the pair alone and on the network's output
at t. So the costs of all pairs take one pass over the timesteps, and the path with the least sum is
found exactly, for every number of steps at once.

One thing is not a matter of a pair: the decoder's variance, clipped to that of the step before it.
It depends on the first two kept timesteps, and so its cost is one of pairs too.

Axis letters: B batch, H W C image, T timesteps, K kept ones.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Float64, Int, Int32

from iddpm_jax.diffusion.gaussian import (
    model_timestep,
    p_mean_variance_from_output,
    q_mean_variance,
    q_sample,
    split_output,
)
from iddpm_jax.diffusion.likelihood import (
    discretized_gaussian_log_likelihood,
    mean_flat,
    nats_to_bits,
    normal_kl,
)
from iddpm_jax.diffusion.shapes import Betas, Images, ImagesLike, ModelFn, PerImageLike, PerStep
from iddpm_jax.diffusion.tables import GaussianDiffusion, MeanType, VarType
from iddpm_jax.errors import UsageError


class PairTables(NamedTuple):
    """What the transition from t to s depends on; float32, at [t, s], s < t.

    With β the variance of q(x_t | x_s) and β̃ that of q(x_s | x_t, x_0):
    log_ratio: log β/β̃.
    signal: the square of x_0's coefficient in the mean of q(x_s | x_t, x_0), over β̃.
    log_posterior: log β̃.
    log_first: log(1 - ᾱ_t): log β of a first step that goes from t to the data.
    """

    log_ratio: Float32[Array | np.ndarray, "T T"]
    signal: Float32[Array | np.ndarray, "T T"]
    log_posterior: Float32[Array | np.ndarray, "T T"]
    log_first: Float32[Array | np.ndarray, " T"]


class Costs(NamedTuple):
    """Costs in bits per dimension, summed over images.

    transition: from t to s, at [t, s], s < t.
    decoder: from t to the data, where s is the timestep after t, at [t, s], s > t.
    prior: of starting from noise at t.
    """

    transition: Float[np.ndarray, "T T"]
    decoder: Float[np.ndarray, "T T"]
    prior: Float[np.ndarray, " T"]


def pair_tables(betas: Betas) -> PairTables:
    """The tables of a schedule; entries that are no transition are 0."""
    alphas_cumprod = np.cumprod(1.0 - betas)
    log_alphas = np.cumsum(np.log1p(-betas))
    a_t, a_s = alphas_cumprod[:, None], alphas_cumprod[None, :]
    going_down = np.tri(betas.size, k=-1, dtype=bool)
    # 1 - ᾱ_t / ᾱ_s without the loss of digits of a difference of two numbers next to 1.
    beta = np.where(going_down, -np.expm1(log_alphas[:, None] - log_alphas[None, :]), 0.5)
    ratio = np.where(going_down, (1 - a_t) / (1 - a_s), 1.0)
    signal = a_s * beta * ratio / (1 - a_t) ** 2
    tables = np.log(ratio), np.where(going_down, signal, 0.0), np.log(beta / ratio)
    return PairTables(*(x.astype(np.float32) for x in (*tables, np.log1p(-alphas_cumprod))))


def check_searchable(d: GaussianDiffusion) -> None:
    """UsageError unless the costs of `d`'s pairs follow from one output of the network."""
    if d.mean_type is MeanType.X_PREV or d.var_type is VarType.LEARNED:
        raise UsageError(
            f"mean_type={d.mean_type} with var_type={d.var_type} ties the network to the step to "
            "t - 1; other steps cannot be computed from it"
        )


def transition_costs(
    d: GaussianDiffusion,
    tables: PairTables,
    model_fn: ModelFn,
    x_start: ImagesLike,
    t: Int[Array, ""] | int,
    noise: ImagesLike,
    weights: PerImageLike,
) -> tuple[PerStep, PerStep]:
    """One row of `Costs`: what leads away from timestep t.

    Args:
      tables: `pair_tables` of d's betas.
      model_fn: called once.
      x_start: in [-1, 1].
      t: from 0 to T - 1.
      noise: standard normal.
      weights: 1, or 0 for an image that does not count.

    Returns:
      transition and decoder, summed over the images.
    """
    tables = PairTables(*[jnp.asarray(table) for table in tables])  # So that t may be traced.
    steps = jnp.full(x_start.shape[0], t)
    x_t = q_sample(d, x_start, steps, noise)
    output = model_fn(x_t, model_timestep(d, steps))
    pred_xstart = p_mean_variance_from_output(d, output, x_t, steps).pred_xstart
    # log variance = log β̃ + fraction · log β/β̃ (IDDPM, eq. 15).
    fraction = _variance_fraction(d, split_output(d, output, x_t)[1])
    first_fraction = fraction if d.var_type.is_learned else 0.0
    x_start = jnp.asarray(x_start)
    error = jnp.square(x_start - pred_xstart)

    def transition(s: Int[Array, ""]) -> Images:
        log_ratio = fraction * tables.log_ratio[t, s]
        shrunk = jnp.exp(-log_ratio) * (1 + tables.signal[t, s] * error)
        return 0.5 * (log_ratio - 1 + shrunk)

    def decoder(s: Int[Array, ""]) -> Images:
        shortest = tables.log_posterior[s, t]
        log_variance = shortest + first_fraction * (tables.log_first[t] - shortest)
        return -discretized_gaussian_log_likelihood(
            x_start, means=pred_xstart, log_scales=jnp.broadcast_to(0.5 * log_variance, x_t.shape)
        )

    def cost(s: Int[Array, ""]) -> Float[Array, ""]:
        nats = jax.lax.cond(s < t, transition, decoder, s)
        return jnp.dot(weights, nats_to_bits(mean_flat(nats)))

    costs = jax.lax.map(cost, jnp.arange(d.num_timesteps))
    going_down = jnp.arange(d.num_timesteps) < t
    return jnp.where(going_down, costs, 0.0), jnp.where(going_down, 0.0, costs)


def _variance_fraction(d: GaussianDiffusion, var_output: Images | None) -> Images | float:
    if var_output is not None:  # Of the learned range; `check_searchable` refuses the other one.
        return (var_output + 1) / 2
    return 1.0 if d.var_type is VarType.FIXED_LARGE else 0.0


def prior_costs(d: GaussianDiffusion, x_start: ImagesLike, weights: PerImageLike) -> PerStep:
    """KL(q(x_t | x_0) || N(0, I)) in bits per dimension for every t, summed over images."""

    def cost(t: Int[Array, ""]) -> Float[Array, ""]:
        mean, _, log_variance = q_mean_variance(d, x_start, jnp.full(x_start.shape[0], t))
        return jnp.dot(weights, nats_to_bits(mean_flat(normal_kl(mean, log_variance, 0.0, 0.0))))

    return jax.lax.map(cost, jnp.arange(d.num_timesteps))


def best_timesteps(
    costs: Costs, max_steps: int
) -> tuple[Float64[np.ndarray, " counts"], Int32[np.ndarray, "counts steps"]]:
    """The paths with the least cost, of 2 to `max_steps` steps.

    Returns:
      bounds: float64 `[max_steps + 1]`, the cost of the best K steps at K; inf below 2.
      kept: int32 `[max_steps + 1, max_steps]`: the best K timesteps, sorted, first in row K,
        then -1.

    Raises:
      UsageError: max_steps is not from 2 to T.
    """
    total = costs.prior.size
    if not 2 <= max_steps <= total:
        raise UsageError(f"max_steps={max_steps} must be from 2 to {total}")
    going_down = np.tri(total, k=-1, dtype=bool)
    transition = np.where(going_down, costs.transition, np.inf)
    # Two steps: to t from the s < t whose decoder comes after it.
    step = transition + np.where(going_down, costs.decoder.T, np.inf)
    previous = np.zeros((max_steps + 1, total), np.int32)
    bounds = np.full(max_steps + 1, np.inf)
    last = np.zeros(max_steps + 1, np.int32)
    for count in range(2, max_steps + 1):
        previous[count] = step.argmin(axis=1)
        best = step.min(axis=1)
        last[count] = np.argmin(best + costs.prior)
        bounds[count] = (best + costs.prior)[last[count]]
        step = transition + best[None, :]
    kept = np.full((max_steps + 1, max_steps), -1, np.int32)
    for count in range(2, max_steps + 1):
        t = last[count]
        for place in range(count - 1, -1, -1):
            kept[count, place] = t
            t = previous[place + 1, t]
    return bounds, kept
