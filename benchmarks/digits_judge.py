"""How good samples of digits are: a fixed classifier trained on the real ones, and its features."""

import numpy as np
from sklearn.neural_network import MLPClassifier

from iddpm_jax.data import digits_source


def classifier() -> MLPClassifier:
    """The judge: 64 hidden units, trained on the training digits, always from the same seed."""
    train = digits_source("train")
    network = MLPClassifier((64,), alpha=0.1, max_iter=400, random_state=0)
    return network.fit(flat(train.images), train.labels)


def features(network: MLPClassifier, images: np.ndarray) -> np.ndarray:
    """Hidden activations, float `[N, 64]`, of uint8 images `[N, H, W, C]`."""
    return np.maximum(flat(images) @ network.coefs_[0] + network.intercepts_[0], 0)


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """|μ_a - μ_b|² + tr(Σ_a + Σ_b - 2 (Σ_a Σ_b)^½) of features `[N, F]` (Heusel et al. 2017)."""
    cov_a, cov_b = (np.cov(x, rowvar=False) for x in (a, b))
    # The trace of the root is the sum of the roots of the eigenvalues, which are not negative.
    roots = np.sqrt(np.linalg.eigvals(cov_a @ cov_b).real.clip(min=0))
    mean = np.square(a.mean(axis=0) - b.mean(axis=0)).sum()
    return float(mean + np.trace(cov_a) + np.trace(cov_b) - 2 * roots.sum())


def flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1) / 255.0
