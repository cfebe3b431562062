"""Enlarges images with a super-resolution model.

    python -m iddpm_jax.super_resolve --workdir=runs/digits_upsample --base_samples=samples.npz
    python -m iddpm_jax.super_resolve --workdir=runs/digits_upsample --images=FOLDER
    python -m iddpm_jax.super_resolve --workdir=runs/digits_upsample --base_workdir=runs/digits4

The last one is the cascade: it draws small samples first, into base/. A run that was stopped
continues when it is started again.
"""

from iddpm_jax.cli import command, launch, sampling_flags
from iddpm_jax.cli import enlarging_flags as flags


def main() -> None:
    flags.refuse_unless_one_origin()
    sampling_flags.refuse_other_directories()

    from iddpm_jax import distributed, trained
    from iddpm_jax.sampling import enlarge

    launch.join()
    arguments = sampling_flags.load_arguments()
    model = enlarge.super_resolution_model(
        trained.load(**arguments), sampling_flags.WORKDIR.value, flags.NOISE.value
    )
    options, count = sampling_flags.sampling_options(), flags.NUM.value
    peer_timeout = launch.peer_timeout()
    if path := flags.SAMPLES.value:
        enlarge.enlarge_samples(model, options, path, count, peer_timeout=peer_timeout)
    elif path := flags.IMAGES.value:
        enlarge.enlarge_folder(model, options, path, count, peer_timeout=peer_timeout)
    elif workdir := flags.BASE.value:
        base = enlarge.Base(
            trained.load(**arguments | {"workdir": workdir, "ema": flags.BASE_EMA.value}),
            workdir,
            flags.BASE_SAMPLER.value,
            flags.BASE_RESPACING.value,
            flags.BASE_GUIDANCE.value,
        )
        enlarge.enlarge_cascade(model, options, base, count, peer_timeout=peer_timeout)
    distributed.finish()


run = command(main, required=["workdir"], continues=True)

if __name__ == "__main__":
    run()
