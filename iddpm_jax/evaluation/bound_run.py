"""The bound of a trained model over a data set, as the nll command evaluates it into a directory.

What was stopped continues; the files are those of `bound_files`.
"""

import itertools
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from iddpm_jax import diffusion as dm
from iddpm_jax import distributed
from iddpm_jax.data import facts_of
from iddpm_jax.distributed.mesh import make_mesh
from iddpm_jax.distributed.progress_bar import progress_bar
from iddpm_jax.errors import SMALLER_BATCHES, explain_out_of_memory
from iddpm_jax.evaluation.bound import make_bound
from iddpm_jax.evaluation.bound_files import read_result, write_result
from iddpm_jax.evaluation.images import ImageChoice, Images, open_images
from iddpm_jax.evaluation.trained_model import TrainedModel
from iddpm_jax.files.output_directory import default_directory, lock_and_record
from iddpm_jax.files.shards import Shards


class BoundOptions(NamedTuple):
    """How the bound is evaluated.

    Attributes:
      respacing: timesteps of the process; "" for all.
      clip_denoised: clip the predicted x_0 to [-1, 1].
      seed: of the noise.
    """

    respacing: str = ""
    clip_denoised: bool = True
    seed: int = 0


def evaluate_bound(
    model: TrainedModel,
    choice: ImageChoice,
    options: BoundOptions,
    workdir: str,
    out: str | None = None,
    *,
    peer_timeout: float = 0,
) -> None:
    """Evaluates every image that is missing, writes the files, and prints what they say.

    Args:
      workdir: the model's; the results go there, under a name for all that they depend on,
        unless `out` says where.
      peer_timeout: seconds after which hosts of a run end when one of them makes no progress.

    Raises:
      UsageError: the images, the respacing or the directory will not do.
    """
    d = model.build_diffusion(options.respacing)
    images = open_images(model, choice, make_mesh())
    settings = _settings(model, choice, options, images)
    agreed = {**settings, "batch_size": images.batch_size, **facts_of(images.source)}
    distributed.check_same_everywhere(agreed, "model or data")
    directory = pathlib.Path(out or _default_directory(workdir, settings)).absolute()
    with lock_and_record(directory, settings, "settings.json"):
        if not d.var_type.is_learned:
            distributed.print_once(_note_on_variance(d.var_type))
        shards = Shards(directory / "shards", len(images))
        if not distributed.on_first(lambda: read_result(directory, settings) is not None):
            with distributed.Watch(directory, peer_timeout) as watch:
                _evaluate_missing(model, d, options, images, shards, watch)
            distributed.on_first(lambda: write_result(directory, settings, shards, d.num_timesteps))
        if jax.process_index() == 0:
            shards.remove()
            result = read_result(directory, settings)
            assert result is not None, "write_result comes first"
            print(_report(directory, result))


@explain_out_of_memory(SMALLER_BATCHES)
def _evaluate_missing(
    model: TrainedModel,
    d: dm.GaussianDiffusion,
    options: BoundOptions,
    images: Images,
    shards: Shards,
    watch: distributed.Watch,
) -> None:
    """Evaluates the images that are missing in the shards."""
    bound = make_bound(
        d,
        model.fast_model,
        model.params,
        make_mesh(),
        seed=options.seed,
        clip_denoised=options.clip_denoised,
        low_res=model.low_res,
    )
    done, advanced = distributed.on_first(shards.done), itertools.count()
    if done:
        distributed.print_once(f"continuing after {done:,} finished images")
    with progress_bar(len(images), done, "images") as bar:
        for start, count, batch in images.batches(done):

            def on_part(share: float, count: int = count) -> None:
                bar.update(count * share)
                # A part, not a batch: that may take longer than hosts wait for each other.
                watch.at(next(advanced), "evaluating")

            part = bound(batch, on_part)
            if jax.process_index() == 0:  # Every host has all of it.
                shards.write(start, count, part)


def _settings(
    model: TrainedModel, choice: ImageChoice, options: BoundOptions, images: Images
) -> dict[str, Any]:
    """What an evaluation is: two that agree in this give the same files."""
    return {
        **model.identity(),
        "split": choice.split,
        "test_percent": choice.test_percent,
        "images": images.source.fingerprint,
        "num_images": len(images),
        "respacing": model.respacing_name(options.respacing),
        "clip_denoised": options.clip_denoised,
        "seed": options.seed,
    }


def _default_directory(workdir: str, settings: Mapping[str, Any]) -> pathlib.Path:
    percent = settings["test_percent"]
    parts = (
        re.sub(r"\W+", "-", settings["split"]).strip("-"),
        "" if percent is None else f"{percent:g}-percent",
        settings["respacing"] or "all",
        settings["num_images"],
        f"seed{settings['seed']}",
        f"step{settings['step']}",
    )
    return default_directory(workdir, "nll", parts, settings)


def _note_on_variance(var_type: dm.VarType) -> str:
    used = "β̃_t" if var_type is dm.VarType.FIXED_SMALL else "β_t"
    return (
        f"the model's variance is fixed at {used}; at t = 0, where β̃ is 0, the decoder's is that "
        "of the second step, as in the reference. A variance that was not trained for the bound "
        "costs it most there"
    )


def _report(directory: pathlib.Path, result: Mapping[str, Any]) -> str:
    known = isinstance(result.get("standard_error"), float)
    error = f" ± {result['standard_error']:.4f}" if known else ""
    return (
        f"{result['bits_per_dim']:.4f}{error} bits/dim: "
        f"prior {result['prior_bpd']:.4f} + KL {result['kl_bpd']:.4f} "
        f"+ decoder {result['decoder_bpd']:.4f}\n"
        f"{result['num_images']:,} images of {result['split']!r}, "
        f"{result['num_timesteps']:,} steps, EMA {result['ema']}, step {result['step']:,}\n"
        f"terms over t: {directory / 'vb_terms.png'}, and vb, mse and xstart_mse _terms.npz "
        "beside it"
    )
