"""Draws samples from a trained model.

    python -m iddpm_jax.sample --workdir=runs/digits --num_samples=64

A run that was stopped continues when it is started again.
"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

from absl import flags

from iddpm_jax import launch
from iddpm_jax import sampling_flags as common
from iddpm_jax.cli import command
from iddpm_jax.cli.flag_errors import define_path
from iddpm_jax.config.recipes import load_recorded
from iddpm_jax.errors import UsageError

if TYPE_CHECKING:
    from iddpm_jax import pictures, trained

_NUM = flags.DEFINE_integer(
    "num_samples", 64, "Number of samples.", lower_bound=1, upper_bound=2**31 - 1
)
_STEPS = flags.DEFINE_integer(
    "show_steps",
    0,
    "Also write steps.png: the reverse process at that many moments.",
    lower_bound=0,
)
_GIF = flags.DEFINE_bool("gif", False, "Also write steps.gif: the reverse process as a film.")
_FORWARD = flags.DEFINE_bool(
    "forward_strip", False, "Also write forward.png: real images on their way to noise."
)
_DATA_DIR = define_path("data_dir", "Where those real images are now, if they have moved.")
_INVERT = flags.DEFINE_list(
    "invert",
    None,
    "Image files. Draws nothing, but encodes them into noise by DDIM, decodes that again, and "
    "tells the error. A class-conditional model needs their --labels.",
)
_INTERPOLATE = flags.DEFINE_list(
    "interpolate",
    None,
    "Two seeds. Draws nothing but interpolation.png: from the image of one seed's noise to that "
    "of the other's, a row for each label.",
)


def main() -> None:
    _check_lists()
    load_recorded(pathlib.Path(common.WORKDIR.value))  # Refused before JAX is imported.

    from iddpm_jax import compilation_cache, pictures, processes, trained
    from iddpm_jax.drawing import Drawing, draw
    from iddpm_jax.evaluation.generation import batch_size_for

    launch.join()
    model = trained.load(common.WORKDIR.value, common.EMA.value, trust_code=common.TRUST_CODE.value)
    model.refuse_super_resolution("sample")
    sampler = _sampler(model)
    generator = model.generator(
        sampler, common.RESPACING.value, common.ETA.value, common.GUIDANCE.value
    )
    size = batch_size_for(_NUM.value, common.BATCH.value, generator.mesh)
    settings = common.settings(model, sampler, _NUM.value, size)
    label_of = model.label_rule(settings["labels"])
    out = pathlib.Path(common.OUT.value or _default_out(settings)).absolute()
    compilation_cache.enable(pathlib.Path(common.WORKDIR.value).absolute().parent)
    options = pictures.Options(
        model,
        generator,
        settings["labels"],
        settings["guidance"],
        settings["seed"],
        out,
        common.BATCH.value,
    )
    if _INVERT.value or _INTERPOLATE.value:
        _pictures_alone(options, settings)
        processes.finish()
        return
    if _STEPS.value > generator.d.num_timesteps:
        raise UsageError(
            f"--show_steps={_STEPS.value} is more than {generator.d.num_timesteps} steps"
        )
    drawing = Drawing(model, generator, settings, out, label_of)
    samples = draw(drawing, launch.peer_timeout())
    processes.tell(f"{settings['num_samples']:,} samples: {samples.result}")
    processes.tell(f"grid: {out / 'grid.png'}")
    if _STEPS.value:
        processes.tell(f"reverse process: {pictures.write_steps(options, _STEPS.value)}")
    if _GIF.value:
        processes.tell(f"film: {pictures.write_film(options)}")
    if _FORWARD.value:
        processes.tell(f"forward process: {pictures.write_forward(options, _DATA_DIR.value)}")
    processes.finish()


def _sampler(model: trained.TrainedModel) -> str:
    """What was asked for; by default ddpm, or ddim where noise on the way would not do."""
    alone = _INVERT.value or _INTERPOLATE.value
    sampler = common.SAMPLER.value or ("ddim" if alone else model.default_sampler)
    eta = common.ETA.value
    if _INVERT.value and (sampler != "ddim" or eta):
        raise UsageError(f"--invert goes by ddim with eta=0, not by {sampler} with {eta}")
    return sampler


def _default_out(settings: dict) -> pathlib.Path:
    kind = "invert_" if _INVERT.value else "interpolate_" if _INTERPOLATE.value else ""
    return common.default_out(settings, kind)


def _pictures_alone(options: pictures.Options, settings: dict) -> None:
    from iddpm_jax import pictures, processes
    from iddpm_jax.evaluation.shards import claim

    if _INVERT.value and _INTERPOLATE.value:
        raise UsageError("--invert and --interpolate are two things; give one of them")
    if _INTERPOLATE.value:
        try:
            first, second = map(int, _INTERPOLATE.value)
        except ValueError:
            given = ",".join(_INTERPOLATE.value)
            raise UsageError(f"--interpolate={given}: give two seeds, as in 0,1") from None
        wanted = {**settings, "interpolate": [first, second]}
        processes.on_first(lambda: claim(options.out, wanted))
        processes.tell(f"interpolation: {pictures.write_interpolation(options, (first, second))}")
        return
    # Before the directory is claimed, so that a file that cannot be read leaves nothing.
    images = pictures.read_images(options, _INVERT.value)
    claim(options.out, {**settings, "invert": _INVERT.value})
    errors = pictures.write_inversion(options, images)
    for path, error in zip(_INVERT.value, errors, strict=True):
        print(f"{path}: root mean square error {error:.2f} of 255")
    print(f"originals and reconstructions: {options.out / 'inversion.png'}")


def _check_lists() -> None:
    """UsageError for an empty --invert, or an --interpolate that is not two seeds."""
    if _INVERT.value is not None and not all(_INVERT.value or [""]):
        raise UsageError("--invert is empty: name image files")
    if _INTERPOLATE.value is None:
        return
    seeds = [int(text) if text.isdecimal() else -1 for text in _INTERPOLATE.value]
    if len(seeds) != 2 or not all(0 <= seed < 2**32 for seed in seeds):
        given = ",".join(_INTERPOLATE.value)
        raise UsageError(f"--interpolate={given}: give two seeds from 0 to {2**32 - 1}, as in 0,1")


run = command(main, required=["workdir"], continues=True)

if __name__ == "__main__":
    run()
