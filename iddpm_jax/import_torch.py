"""Makes a work directory of a PyTorch checkpoint.

    python -m iddpm_jax.import_torch --checkpoint=cifar10_uncond_50M_500K.pt \\
        --workdir=runs/openai_cifar10

OpenAI's published checkpoints are recognised. For any other, give the --config that it was
trained with, the reference's own flags as --model_flags, or what is asked for. A whole training
run moves with --ema and --optimizer.
"""

from typing import Any

from absl import flags

from iddpm_jax.cli import command, config_flag, shared_flags, torch_flags
from iddpm_jax.cli.path_flag import define_path
from iddpm_jax.torch_io.published import PUBLISHED

_ABOUT_EMA = "Averaged weights, named as the reference does: ema_0.9999_500000.pt. Several."
_ABOUT_PRESET = "Which published checkpoint it is, where the name is changed."
_ABOUT_STEP = "Training steps taken, where the file's name does not tell."
_ABOUT_MODEL_FLAGS = (
    "The flags that improved-diffusion trained it with: '--image_size 32 --num_channels 128 …'."
)
_FLAGS = (
    define_path("checkpoint", "The network's weights: a state dict, .pt or .safetensors."),
    shared_flags.workdir("Work directory to make."),
    flags.DEFINE_multi_string("ema", [], _ABOUT_EMA),
    define_path("optimizer", "State of the AdamW: opt500000.pt."),
    flags.DEFINE_enum("preset", None, list(PUBLISHED), _ABOUT_PRESET),
    flags.DEFINE_integer("step", None, _ABOUT_STEP, lower_bound=0),
    flags.DEFINE_string("model_flags", None, _ABOUT_MODEL_FLAGS),
    torch_flags.attention_order(),
    torch_flags.torch_microbatch(),
    torch_flags.torch_batch_size(),
)


def main() -> None:
    import jax

    from iddpm_jax.config.convert_torch import ImportRequest, import_run

    jax.config.update("jax_platforms", "cpu")  # Nothing is computed.
    given: dict[str, Any] = {flag.name: flag.value for flag in _FLAGS}
    import_run(
        ImportRequest(
            config=None if config_flag.given() is None else config_flag.value(),
            overrides=config_flag.overrides(),
            **given,
        )
    )


run = command(main, required=["checkpoint", "workdir"], config=True)

if __name__ == "__main__":
    run()
