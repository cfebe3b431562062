"""Plots, drawn with matplotlib without a display."""

import pathlib
from collections.abc import Mapping

import numpy as np

from iddpm_jax.files.atomic import replacing


def save_terms_plot(path: pathlib.Path, terms: Mapping[str, np.ndarray]) -> None:
    """The terms of the bound over t, both axes logarithmic (IDDPM, figure 2).

    Args:
      terms: curves by label, `[T]`, t = T-1 first.
    """
    figure, axes = _figure()
    for label, values in terms.items():
        axes.plot(np.arange(1, len(values) + 1), values[::-1], label=label)
    axes.set(xscale="log", yscale="log", xlabel="t + 1", ylabel="bits per dimension")
    axes.set_title("Terms of the variational bound")
    if len(terms) > 1:
        axes.legend()
    _save(figure, path)


def save_curves_plot(
    path: pathlib.Path,
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    xlabel: str,
    ylabel: str,
) -> None:
    """Curves (x, y) by label, the vertical axis logarithmic."""
    figure, axes = _figure()
    for label, (x, y) in curves.items():
        axes.plot(x, y, label=label, linewidth=1)
    axes.set(yscale="log", xlabel=xlabel, ylabel=ylabel)
    axes.legend()
    _save(figure, path)


def _figure():
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.grid(alpha=0.3)
    return figure, axes


def _save(figure, path: pathlib.Path) -> None:
    with replacing(path) as file:
        figure.savefig(file, format=path.suffix[1:], metadata={"Software": None})
