"""Loading a trained model from its work directory: `iddpm_jax.load`."""

from iddpm_jax.cli import compilation_cache as persistent_cache
from iddpm_jax.config import user_code
from iddpm_jax.config.build_trained_model import build_trained_model
from iddpm_jax.config.recipes import load_recorded
from iddpm_jax.config.record import flat_config
from iddpm_jax.files.paths import local_path
from iddpm_jax.sampling.trained_model import TrainedModel

__all__ = ["TrainedModel", "load"]


def load(
    workdir: str,
    ema: str = "",
    *,
    compilation_cache: bool = True,
    trust_code: bool = False,
    force_respacing: bool = False,
) -> TrainedModel:
    """Loads the newest checkpoint of a work directory.

    Args:
      workdir: what `main.py --workdir` wrote.
      ema: which average of the parameters: a rate of train.ema_rate, such as "0.9999"; empty
        for the first one; "none" for the parameters themselves.
      compilation_cache: keep what this process compiles in `.jax_cache` beside the work
        directory, as the commands do, where the next process finds it. A directory that JAX was
        told before (JAX_COMPILATION_CACHE_DIR, `jax_compilation_cache_dir`) stays; False leaves
        JAX as it is.
      trust_code: import the schedule, network or data of the user's own that config.json names
        (docs/extending.md). That runs code: say so for a directory whose origin you know.
      force_respacing: take timesteps that dp_respacing searched for another step or average.

    Returns:
      The model, its parameters on all devices.

    Raises:
      UsageError: it is no work directory, has no complete checkpoint, or no such average, or
        it names code and `trust_code` is False.
    """
    path = local_path(workdir, "workdir")
    config = load_recorded(path)
    values = flat_config(config)
    if not trust_code:
        user_code.refuse_untrusted(values, str(path / "config.json"))
    user_code.allow(values)
    if compilation_cache:
        persistent_cache.enable(path.absolute().parent)
    return build_trained_model(config, path, ema, force_respacing=force_respacing)
