"""Trains a diffusion model, or continues to.

    python -m iddpm_jax.train --config=digits --workdir=runs/digits
    python -m iddpm_jax.train --workdir=runs/digits

The second line continues what is in the work directory, to the bit as if it had never stopped.
Ctrl-C and SIGTERM save first.
"""

from contextlib import ExitStack

from absl import flags

from iddpm_jax.cli import command, config_flag, launch, shared_flags
from iddpm_jax.config import own_code
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
        own_code.refuse_untrusted(values, "the run's config.json")
    own_code.allow(values)  # A recipe is the user's own program, and so is what it names.
    from iddpm_jax import distributed
    from iddpm_jax.cli import compilation_cache
    from iddpm_jax.config.build_model import follow_image_size
    from iddpm_jax.config.build_training import build_training
    from iddpm_jax.config.record import MAY_CHANGE
    from iddpm_jax.files import workdir
    from iddpm_jax.files.lock import lock
    from iddpm_jax.files.paths import local_path
    from iddpm_jax.training import loop

    launch.join()
    if "model.attention_resolutions" not in config_flag.overrides():
        follow_image_size(config, config_flag.recipe_value("model.image_size"))
    directory = local_path(_WORKDIR.value, "--workdir").absolute()
    with ExitStack() as held:
        run = build_training(config, workdir.known_labels(str(directory)))

        def open_workdir() -> None:
            held.enter_context(lock(directory))
            workdir.open_workdir(str(directory), run.config, MAY_CHANGE)
            if run.data.class_names:
                workdir.write_labels(directory, run.data.class_names)

        distributed.on_first(open_workdir)
        compilation_cache.enable(directory.parent)
        loop.train(run, directory, launch.peer_timeout(), parameter_table=_TABLE.value)


run = command(main, required=["workdir"], config=True, continues=True)

if __name__ == "__main__":
    run()
