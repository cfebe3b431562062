"""Draws samples from a trained model.

    python -m iddpm_jax.sample --workdir=runs/digits --num_samples=64

A run that was stopped continues when it is started again.
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import TYPE_CHECKING

from absl import flags

from iddpm_jax.cli import command, launch, shared_flags
from iddpm_jax.cli import sampling_flags as common
from iddpm_jax.config.recipes import load_recorded
from iddpm_jax.errors import UsageError

if TYPE_CHECKING:
    from iddpm_jax import trained
    from iddpm_jax.sampling import pictures
    from iddpm_jax.sampling.generator import Generator

_NUM = shared_flags.num_samples(
    64, "Number of samples.", at_least=1, at_most=shared_flags.LARGEST_COUNT
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
_DATA_DIR = shared_flags.data_dir("Where those real images are now, if they have moved.")
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

    from iddpm_jax import distributed, trained
    from iddpm_jax.cli import compilation_cache
    from iddpm_jax.files.output_directory import lock_and_record
    from iddpm_jax.sampling import pictures
    from iddpm_jax.sampling.inputs import Inputs
    from iddpm_jax.sampling.write_samples import Drawing, draw

    launch.join()
    model = trained.load(
        common.WORKDIR.value,
        common.EMA.value,
        trust_code=common.TRUST_CODE.value,
        force_respacing=common.FORCE.value,
    )
    model.refuse_super_resolution("sample")
    generator = common.generator(model, _sampler(model))
    settings = common.settings(model, generator, _NUM.value)
    inputs = Inputs(labels=model.label_rule(settings["labels"]))
    compilation_cache.enable(pathlib.Path(common.WORKDIR.value).absolute().parent)
    if _INVERT.value or _INTERPOLATE.value:
        _pictures_alone(model, generator, settings)
        distributed.finish()
        return
    if _STEPS.value > generator.d.num_timesteps:
        raise UsageError(
            f"--show_steps={_STEPS.value} is more than {generator.d.num_timesteps} steps"
        )
    out = pathlib.Path(common.OUT.value or common.default_out(settings)).absolute()
    drawing = Drawing(model, generator, settings, out, inputs, common.PNG.value)
    with lock_and_record(out, settings):
        samples = draw(drawing, launch.peer_timeout())
        distributed.print_once(f"{settings['num_samples']:,} samples: {samples}")
        distributed.print_once(f"grid: {out / 'grid.png'}")
        options = _options(model, generator, settings, out)
        if _STEPS.value:
            distributed.print_once(
                f"reverse process: {pictures.write_steps(options, _STEPS.value)}"
            )
        if _GIF.value:
            distributed.print_once(f"film: {pictures.write_film(options)}")
        if _FORWARD.value:
            distributed.print_once(
                f"forward process: {pictures.write_forward(options, _DATA_DIR.value)}"
            )
    distributed.finish()


def _sampler(model: trained.TrainedModel) -> str:
    """What was asked for; by default ddpm, or ddim where noise on the way would not do."""
    alone = _INVERT.value or _INTERPOLATE.value
    sampler = common.SAMPLER.value or ("ddim" if alone else model.default_sampler)
    eta = common.ETA.value
    if _INVERT.value and (sampler != "ddim" or eta):
        raise UsageError(f"--invert goes by ddim with eta=0, not by {sampler} with {eta}")
    return sampler


def _options(model, generator, settings: dict, out: pathlib.Path) -> pictures.Options:
    from iddpm_jax.sampling import pictures

    return pictures.Options(model, generator, settings["labels"], common.SEED.value, out)


def _pictures_alone(model: trained.TrainedModel, generator: Generator, settings: dict) -> None:
    from iddpm_jax import distributed
    from iddpm_jax.files.output_directory import digest_of, lock_and_record
    from iddpm_jax.sampling import pictures, trajectories

    if _INVERT.value and _INTERPOLATE.value:
        raise UsageError("--invert and --interpolate are two things; give one of them")
    # There is one picture for each label, whose noise is not that of a sample.
    settings = {k: v for k, v in settings.items() if k not in ("num_samples", "seed", "rgb")}
    kind = "invert" if _INVERT.value else "interpolate"
    options = _options(model, generator, settings, pathlib.Path())
    if _INTERPOLATE.value:
        settings["interpolate"] = [int(seed) for seed in _INTERPOLATE.value]
        trajectories.check_deterministic(generator)
    else:
        # Before the directory is claimed, so that a file that cannot be read leaves nothing.
        images = pictures.read_images(options, _INVERT.value)
        settings["invert"] = digest_of(images)
    out = pathlib.Path(common.OUT.value or common.default_out(settings, kind)).absolute()
    options = dataclasses.replace(options, out=out)
    with lock_and_record(out, settings):
        if _INTERPOLATE.value:
            path = pictures.write_interpolation(options, settings["interpolate"])
            distributed.print_once(f"interpolation: {path}")
            return
        errors = pictures.write_inversion(options, images)
    for path, error in zip(_INVERT.value, errors, strict=True):
        print(f"{path}: root mean square error {error:.2f} of 255")
    print(f"originals and reconstructions: {out / 'inversion.png'}")


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
