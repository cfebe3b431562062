"""The likelihood of images under a trained model: the variational bound in bits per dimension.

    python -m iddpm_jax.nll --workdir=runs/digits --split=test

Every image of the split counts exactly once. A run that was stopped continues when it is
started again.
"""

import pathlib

from iddpm_jax.cli import command, launch, shared_flags
from iddpm_jax.config.recipes import load_recorded

_WORKDIR = shared_flags.workdir()
_SPLIT = shared_flags.split("test", "Which part of the data, such as test or train.")
_NUM = shared_flags.num_samples(0, "Number of images, spread over the split; 0: all.")
_RESPACING = shared_flags.respacing(
    "Timesteps of the process: 250, ddim50, exact30, dp25 or any other that the sample command "
    "takes. Empty: all."
)
_FORCE = shared_flags.force()
_BATCH = shared_flags.batch_size()
_EMA = shared_flags.ema()
_TRUST = shared_flags.trust_code()
_DATA_DIR = shared_flags.data_dir()
_TEST_PERCENT = shared_flags.test_percent()
_SEED = shared_flags.seed()
_CLIP = shared_flags.clip_denoised(True, "Clip the predicted x_0 to [-1, 1].")
_OUT = shared_flags.out()


def main() -> None:
    shared_flags.refuse_empty_split(_SPLIT.value)
    load_recorded(pathlib.Path(_WORKDIR.value))  # Refused before JAX is imported.

    from iddpm_jax import distributed, trained
    from iddpm_jax.evaluation.bound_run import BoundOptions, evaluate_bound
    from iddpm_jax.evaluation.images import ImageChoice

    launch.join()
    workdir, out, peer_timeout = _WORKDIR.value, _OUT.value, launch.peer_timeout()
    model = trained.load(workdir, _EMA.value, trust_code=_TRUST.value, force_respacing=_FORCE.value)
    model.refuse_without_likelihood("nll")
    images = ImageChoice(
        _SPLIT.value, _NUM.value, _BATCH.value, _DATA_DIR.value, _TEST_PERCENT.value
    )
    options = BoundOptions(_RESPACING.value, _CLIP.value, _SEED.value)
    evaluate_bound(model, images, options, workdir, out, peer_timeout=peer_timeout)
    distributed.finish()


run = command(main, required=["workdir"], continues=True)

if __name__ == "__main__":
    run()
