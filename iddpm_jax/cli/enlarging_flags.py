"""Flags of the super_resolve command: what is enlarged, and how a cascade draws it first."""

from absl import flags

from iddpm_jax.cli import shared_flags
from iddpm_jax.cli.path_flag import define_path
from iddpm_jax.cli.sampler_names import sampler_names
from iddpm_jax.errors import UsageError

SAMPLES = define_path(
    "base_samples", "npz of small images, as the sample command writes it, labels included."
)
IMAGES = define_path("images", "Folder or archive of small images.")
BASE = define_path("base_workdir", "Work directory of a model that draws small images: a cascade.")
NUM = shared_flags.num_samples(
    0,
    "Number of images; 0: all there are, 64 of a cascade.",
    at_most=shared_flags.LARGEST_COUNT,
)
NOISE = flags.DEFINE_float(
    "low_res_noise",
    None,
    "Standard deviation of noise on the small images; default: as the model was trained.",
    lower_bound=0.0,
    upper_bound=1.0,
)
BASE_SAMPLER = flags.DEFINE_enum(
    "base_sampler", "ddpm", sampler_names(), "Sampler of the cascade's base."
)
BASE_RESPACING = flags.DEFINE_string("base_respacing", "", "Timesteps of the cascade's base.")
BASE_EMA = flags.DEFINE_string("base_ema", "", "Averaged parameters of the cascade's base.")
BASE_GUIDANCE = flags.DEFINE_float("base_guidance", 1.0, "Guidance of the cascade's base.")


def refuse_unless_one_origin() -> None:
    """UsageError unless the flags say in one way where the small images come from."""
    origins = {"base_samples": SAMPLES, "images": IMAGES, "base_workdir": BASE}
    given = [name for name, flag in origins.items() if flag.value]
    if len(given) != 1:
        raise UsageError(
            f"give one of --{', --'.join(origins)}, not {' and '.join(given) or 'none'}"
        )
