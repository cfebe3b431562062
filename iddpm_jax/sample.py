"""Draws samples from a trained model.

    python -m iddpm_jax.sample --workdir=runs/digits --num_samples=64

A run that was stopped continues when it is started again.
"""

from iddpm_jax.cli import command, launch, picture_flags, sampling_flags, shared_flags

_NUM = shared_flags.num_samples(
    64, "Number of samples.", at_least=1, at_most=shared_flags.LARGEST_COUNT
)


def main() -> None:
    images, seeds = picture_flags.inverted_images(), picture_flags.interpolated_seeds()
    sampling_flags.refuse_other_directories()

    from iddpm_jax import distributed, trained
    from iddpm_jax.sampling import sample_run

    launch.join()
    model = trained.load(**sampling_flags.load_arguments())
    model.refuse_super_resolution("sample")
    options = sampling_flags.sampling_options()
    if images:
        sample_run.write_inversion(model, options, images)
    elif seeds:
        sample_run.write_interpolation(model, options, seeds)
    else:
        extra = sample_run.ExtraPictures(
            picture_flags.STEPS.value,
            picture_flags.GIF.value,
            picture_flags.FORWARD.value,
            picture_flags.DATA_DIR.value,
        )
        peer_timeout = launch.peer_timeout()
        sample_run.write_samples(model, options, _NUM.value, extra, peer_timeout=peer_timeout)
    distributed.finish()


run = command(main, required=["workdir"], continues=True)

if __name__ == "__main__":
    run()
