"""The likelihood of images under a trained model: the variational bound in bits per dimension.

    python -m iddpm_jax.nll --workdir=runs/digits --split=test

Every image of the split counts exactly once. A run that was stopped continues when it is
started again.
"""

from __future__ import annotations

import itertools
import pathlib
import re
from typing import TYPE_CHECKING

from iddpm_jax.cli import command, launch, shared_flags
from iddpm_jax.config.recipes import load_recorded
from iddpm_jax.errors import SMALLER_BATCHES, explain_out_of_memory

if TYPE_CHECKING:
    from iddpm_jax import trained
    from iddpm_jax.diffusion import VarType

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

    import jax

    from iddpm_jax import distributed, trained
    from iddpm_jax.cli import compilation_cache
    from iddpm_jax.data import facts_of
    from iddpm_jax.data.image_batches import spread_indices
    from iddpm_jax.distributed.mesh import make_mesh
    from iddpm_jax.evaluation.bound_files import read_result, write_result
    from iddpm_jax.files.output_directory import lock_and_record
    from iddpm_jax.files.shards import Shards
    from iddpm_jax.sampling.generator import batch_size_for

    launch.join()
    model = trained.load(
        _WORKDIR.value, _EMA.value, trust_code=_TRUST.value, force_respacing=_FORCE.value
    )
    model.refuse_without_likelihood("nll")
    d = model.build_diffusion(_RESPACING.value)
    source = model.open_source(
        _SPLIT.value, data_dir=_DATA_DIR.value, test_percent=_TEST_PERCENT.value
    )
    mesh = make_mesh()
    indices = spread_indices(len(source), _NUM.value)
    size = batch_size_for(len(indices), _BATCH.value, mesh)
    settings = _settings(model, len(indices), source.fingerprint)
    agreed = {**settings, "batch_size": size, **facts_of(source)}
    distributed.check_same_everywhere(agreed, "model or data")
    out = pathlib.Path(_OUT.value or _default_out(settings)).absolute()
    compilation_cache.enable(pathlib.Path(_WORKDIR.value).absolute().parent)
    with lock_and_record(out, settings, "settings.json"):
        shards, is_first = Shards(out / "shards", len(indices)), jax.process_index() == 0
        if is_first and not d.var_type.is_learned:
            _tell_variance(d.var_type)
        if not distributed.on_first(lambda: read_result(out, settings) is not None):
            _evaluate(model, d, source, mesh, indices, size, out, shards)
            distributed.on_first(lambda: write_result(out, settings, shards, d.num_timesteps))
        if is_first:
            shards.remove()
            _report(out, read_result(out, settings))
    distributed.finish()


@explain_out_of_memory(SMALLER_BATCHES)
def _evaluate(model, d, source, mesh, indices, size: int, out: pathlib.Path, shards) -> None:
    """Evaluates the images that are missing in the shards."""
    import jax

    from iddpm_jax import distributed
    from iddpm_jax.data.image_batches import image_batches
    from iddpm_jax.distributed.progress_bar import progress_bar
    from iddpm_jax.evaluation.bound import make_bound

    bound = make_bound(
        d,
        model.fast_model,
        model.params,
        mesh,
        seed=_SEED.value,
        clip_denoised=_CLIP.value,
        low_res=model.low_res,
    )
    total, done = len(indices), distributed.on_first(shards.done)
    if done:
        distributed.print_once(f"continuing after {done:,} finished images")
    advanced = itertools.count()
    with (
        distributed.Watch(out, launch.peer_timeout()) as watch,
        progress_bar(total, done, "images") as bar,
    ):
        for start, batch in zip(
            range(done, total, size), image_batches(source.batch, indices, size, done), strict=True
        ):
            count = min(size, total - start)

            def on_part(share: float, count: int = count) -> None:
                bar.update(count * share)
                # A part, not a batch: that may take longer than hosts wait for each other.
                watch.at(next(advanced), "evaluating")

            part = bound(batch, on_part)
            if jax.process_index() == 0:  # Every process has all of it.
                shards.write(start, count, part)


def _settings(model: trained.TrainedModel, num_images: int, fingerprint: str) -> dict:
    """What an evaluation is: two that agree in this give the same files."""
    return {
        **model.identity(),
        "split": _SPLIT.value,
        "test_percent": _TEST_PERCENT.value,
        "images": fingerprint,
        "num_images": num_images,
        "respacing": model.respacing_name(_RESPACING.value),
        "clip_denoised": _CLIP.value,
        "seed": _SEED.value,
    }


def _default_out(settings: dict) -> pathlib.Path:
    from iddpm_jax.files.output_directory import default_directory

    percent = settings["test_percent"]
    parts = (
        re.sub(r"\W+", "-", settings["split"]).strip("-"),
        "" if percent is None else f"{percent:g}-percent",
        settings["respacing"] or "all",
        settings["num_images"],
        f"seed{settings['seed']}",
        f"step{settings['step']}",
    )
    return default_directory(_WORKDIR.value, "nll", parts, settings)


def _tell_variance(var_type: VarType) -> None:
    from iddpm_jax.diffusion import VarType

    used = "β̃_t" if var_type is VarType.FIXED_SMALL else "β_t"
    print(
        f"the model's variance is fixed at {used}; at t = 0, where β̃ is 0, the decoder's is that "
        "of the second step, as in the reference. A variance that was not trained for the bound "
        "costs it most there"
    )


def _report(out: pathlib.Path, result: dict) -> None:
    known = isinstance(result.get("standard_error"), float)
    error = f" ± {result['standard_error']:.4f}" if known else ""
    print(
        f"{result['bits_per_dim']:.4f}{error} bits/dim: "
        f"prior {result['prior_bpd']:.4f} + KL {result['kl_bpd']:.4f} "
        f"+ decoder {result['decoder_bpd']:.4f}"
    )
    print(
        f"{result['num_images']:,} images of {result['split']!r}, "
        f"{result['num_timesteps']:,} steps, EMA {result['ema']}, step {result['step']:,}"
    )
    print(f"terms over t: {out / 'vb_terms.png'}, and vb, mse and xstart_mse _terms.npz beside it")


run = command(main, required=["workdir"], continues=True)

if __name__ == "__main__":
    run()
