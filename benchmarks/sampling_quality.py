"""Steps against quality on digits: a Markdown table of samplers and step counts.

    python -m benchmarks.sampling_quality --workdir=runs/digits

Quality is what a fixed classifier says, a scikit-learn network trained on the real digits: the
share of samples in which it recognises the requested class, and the Fréchet distance between
its hidden features of samples and of the held-out digits.
"""

import json
import time

import numpy as np
from absl import app, flags
from sklearn.neural_network import MLPClassifier

import iddpm_jax
from iddpm_jax.data import load_source

_WORKDIR = flags.DEFINE_string("workdir", "runs/digits", "Work directory of the digits recipe.")
_NUM = flags.DEFINE_integer("num_samples", 500, "Samples for each entry of the table.")
_STEPS = flags.DEFINE_list("steps", ["10", "25", "50", "100", "1000"], "Step counts.")

# Each sampler with the spacing of timesteps that is usual for it.
SPACINGS = {"ddpm": "exact", "ddim": "exact", "dpm-solver++": "logsnr"}


def classifier() -> MLPClassifier:
    """The judge: 64 hidden units, trained on the training digits, always from the same seed."""
    train = load_source("digits", "", "train")
    network = MLPClassifier((64,), alpha=0.1, max_iter=400, random_state=0)
    return network.fit(_flat(train.images), train.labels)


def features(network: MLPClassifier, images: np.ndarray) -> np.ndarray:
    """Hidden activations, float `[N, 64]`, of uint8 images `[N, H, W, C]`."""
    return np.maximum(_flat(images) @ network.coefs_[0] + network.intercepts_[0], 0)


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """|μ_a - μ_b|² + tr(Σ_a + Σ_b - 2 (Σ_a Σ_b)^½) of features `[N, F]` (Heusel et al. 2017)."""
    cov_a, cov_b = (np.cov(x, rowvar=False) for x in (a, b))
    # The trace of the root is the sum of the roots of the eigenvalues, which are not negative.
    roots = np.sqrt(np.linalg.eigvals(cov_a @ cov_b).real.clip(min=0))
    mean = np.square(a.mean(axis=0) - b.mean(axis=0)).sum()
    return float(mean + np.trace(cov_a) + np.trace(cov_b) - 2 * roots.sum())


def _flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1) / 255.0


def main(_) -> None:
    network, held_out = classifier(), load_source("digits", "", "test")
    reference = features(network, held_out.images)
    train = features(network, load_source("digits", "", "train").images)
    print(f"held-out digits: accuracy {network.score(_flat(held_out.images), held_out.labels):.1%}")
    print(f"training digits: Fréchet distance {frechet_distance(train, reference):.2f}")
    model = iddpm_jax.load(_WORKDIR.value)
    total = model.build_diffusion("").num_timesteps
    rows = []
    for sampler, spacing in SPACINGS.items():
        cells = []
        for steps in map(int, _STEPS.value):
            start = time.monotonic()
            images = model.sample(
                _NUM.value,
                sampler=sampler,
                respacing=f"{spacing}{steps}" if steps < total else "",
                batch_size=250,
            )
            requested = np.arange(_NUM.value) % model.num_classes
            accuracy = float((network.predict(_flat(images)) == requested).mean())
            distance = frechet_distance(features(network, images), reference)
            row = {"sampler": sampler, "steps": steps, "accuracy": accuracy, "frechet": distance}
            print(json.dumps({**row, "seconds": round(time.monotonic() - start, 1)}), flush=True)
            cells.append(f"{accuracy:.1%} / {distance:.2f}")
        rows.append(f"| {sampler} | " + " | ".join(cells) + " |")
    print("| accuracy / Fréchet distance | " + " | ".join(_STEPS.value) + " |")
    print("| --- |" + " --- |" * len(_STEPS.value))
    print("\n".join(rows))


if __name__ == "__main__":
    app.run(main)
