"""How good enlarged digits are: PSNR against the real ones, and accuracy of a cascade's samples.

    python -m benchmarks.super_resolution --workdir=runs/digits_upsample \
        --base_workdir=runs/digits_base4

The held-out digits are made smaller by area, and enlarged again by the model and bilinearly. The
cascade's samples are judged by the classifier of `digits_judge`, beside bilinear enlargements of
its small samples. Prints a Markdown table, and the numbers as JSON.
"""

import json

import numpy as np
from absl import app, flags

import iddpm_jax
from benchmarks.digits_judge import classifier, flat
from iddpm_jax.data import digits_source
from iddpm_jax.sampling.super_resolution import bilinear

_WORKDIR = flags.DEFINE_string("workdir", None, "Super-resolution model, 8 x 8 from 4 x 4.")
_BASE = flags.DEFINE_string("base_workdir", None, "Model of 4 x 4 digits.")
_NUM = flags.DEFINE_integer("num_samples", 500, "Samples of the cascade.", lower_bound=1)
_RESPACINGS = flags.DEFINE_list("respacings", ["exact100", "exact25", "exact10"], "Of both stages.")
_AVERAGE = 8  # Samples whose mean approaches the best guess in the sense of PSNR.


def psnr(images: np.ndarray, originals: np.ndarray) -> float:
    """10 log10(255² / mean squared error) over all images, in dB."""
    error = np.square(images.astype(np.float64) - originals).mean()
    return float(10 * np.log10(255**2 / error))


def reconstruction(model, respacing: str) -> dict[str, float]:
    """PSNR in dB of one sample, of the mean of several, and of bilinear interpolation."""
    real, small = digits_source("test"), digits_source("test", 4)
    draws = [
        model.super_resolve(
            small.images, labels=real.labels.tolist(), respacing=respacing, seed=seed, batch_size=99
        )
        for seed in range(_AVERAGE)
    ]
    return {
        "psnr": float(np.mean([psnr(images, real.images) for images in draws])),
        "psnr_of_mean": psnr(np.mean(draws, axis=0), real.images),
        "psnr_bilinear": psnr(bilinear(small.images, 8), real.images),
    }


def accuracy(images: np.ndarray, labels: np.ndarray) -> float:
    return float(classifier().score(flat(images), labels))


def main(_) -> None:
    model, base = iddpm_jax.load(_WORKDIR.value), iddpm_jax.load(_BASE.value)
    labels = np.arange(_NUM.value) % 10
    test, test_small = digits_source("test"), digits_source("test", 4)
    result = {
        "real_accuracy": accuracy(test.images, test.labels),
        "bilinear_of_real_accuracy": accuracy(bilinear(test_small.images, 8), test.labels),
    }
    print("| steps | PSNR | of the mean of 8 | bilinear | accuracy of the cascade | bilinear |")
    print("| --- | --- | --- | --- | --- | --- |")
    for respacing in _RESPACINGS.value:
        row = reconstruction(model, respacing)
        small = base.sample(_NUM.value, respacing=respacing, batch_size=100)
        large = model.super_resolve(small, labels=labels, respacing=respacing, batch_size=100)
        row["accuracy"] = accuracy(large, labels)
        row["bilinear_accuracy"] = accuracy(bilinear(small, 8), labels)
        result[respacing or "all"] = row
        print(
            f"| {respacing or 'all'} | {row['psnr']:.2f} dB | {row['psnr_of_mean']:.2f} dB "
            f"| {row['psnr_bilinear']:.2f} dB | {row['accuracy']:.1%} "
            f"| {row['bilinear_accuracy']:.1%} |",
            flush=True,
        )
    print(json.dumps(result))


if __name__ == "__main__":
    flags.mark_flags_as_required(["workdir", "base_workdir"])
    app.run(main)
