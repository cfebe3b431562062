"""Trains a diffusion model, or continues to.

    python -m iddpm_jax.train --config=digits --workdir=runs/digits
    python -m iddpm_jax.train --workdir=runs/digits

The second line continues what is in the work directory, to the bit as if it had never stopped.
Ctrl-C and SIGTERM save first.
"""

from absl import flags

from iddpm_jax.cli import command, config_flag, launch, shared_flags
from iddpm_jax.config import user_code
from iddpm_jax.config.check import check_config
from iddpm_jax.config.record import flat_config

_TABLE = flags.DEFINE_bool("parameter_table", False, "Print every parameter with its shape.")
_TRUST = shared_flags.trust_code("a run's")
_WORKDIR = shared_flags.workdir(
    "Directory for checkpoints, samples and metrics; the run in it continues."
)


def main() -> None:
    config = config_flag.value()
    check_config(config)
    values = flat_config(config)
    if config_flag.is_recorded() and not _TRUST.value:
        user_code.refuse_untrusted(values, "the run's config.json")
    user_code.allow(values)  # A recipe is the user's own program, and so is what it names.

    from iddpm_jax import distributed
    from iddpm_jax.cli import compilation_cache
    from iddpm_jax.config.build_model import follow_image_size
    from iddpm_jax.config.build_training import build_training
    from iddpm_jax.files.paths import local_path, refuse_unwritable
    from iddpm_jax.files.workdir import known_labels
    from iddpm_jax.training import loop
    from iddpm_jax.training.run_directory import locked_workdir

    launch.join()
    if "model.attention_resolutions" not in config_flag.overrides():
        follow_image_size(config, config_flag.recipe_value("model.image_size"))
    directory = local_path(_WORKDIR.value, "--workdir").absolute()
    distributed.on_first(lambda: refuse_unwritable(directory))  # Before the data are opened.
    run = build_training(config, known_labels(directory))
    with locked_workdir(directory, run.identity):
        compilation_cache.enable(directory.parent)
        loop.train(run, directory, launch.peer_timeout(), parameter_table=_TABLE.value)


run = command(main, required=["workdir"], config=True, continues=True)

if __name__ == "__main__":
    run()
