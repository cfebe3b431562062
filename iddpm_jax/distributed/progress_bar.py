"""A progress bar, which one of several hosts shows."""

import sys

import jax
from tqdm import tqdm


def progress_bar(total: float, done: float, unit: str) -> tqdm:
    """A bar on a terminal; elsewhere a line now and then. The first host alone shows it.

    Args:
      total, done: how much there is to do, and how much of it is done before.
      unit: what is counted, such as "images".
    """
    terminal = sys.stderr.isatty()
    return tqdm(
        total=total,
        disable=jax.process_index() != 0,
        initial=done,
        dynamic_ncols=terminal,
        mininterval=0.5 if terminal else 30.0,
        unit=f" {unit}",
        bar_format="{percentage:3.0f}% | {n:.0f}/{total:.0f}{unit} | {rate_fmt} | {remaining} left",
    )
