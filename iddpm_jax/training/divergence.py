"""Noticing that a loss has exploded."""

from collections.abc import Mapping


class Divergence:
    """Says once, at the log line where it shows, that training has diverged.

    The squared or absolute error of a network that knows nothing is about 1: the noise has
    variance 1, images are in [-1, 1]. The variational bound, and a loss that it is a part of, has
    no such measure. It may begin at many thousands, from a few timesteps next to the data, so it
    is compared with its first value, too.
    """

    _LARGEST_ERROR = 30.0
    _LARGEST_BOUND, _GROWTH, _NEVER = 1e6, 1e3, 1e9

    def __init__(self, bound: bool):
        """Args: bound: whether the loss is the variational bound (`kl`, `rescaled_kl`)."""
        self._bound = bound
        self._first: float | None = None
        self._said = False

    def warning(self, step: int, values: Mapping[str, float]) -> str | None:
        """What to say of the averages of one log line, if there is something."""
        loss = values.get("loss")
        if loss is None or self._said:
            return None
        self._first = loss if self._first is None else self._first
        error = values.get("mse", 0.0 if self._bound else loss)
        if error > self._LARGEST_ERROR:
            found = f"the error is {error:.3g}, about 1 before any training"
        elif loss > min(self._NEVER, max(self._LARGEST_BOUND, self._GROWTH * self._first)):
            found = f"the loss is {loss:.3g}, at first it was {self._first:.3g}"
        else:
            return None
        self._said = True
        return (
            f"step {step:,}: {found}: training has diverged. A lower train.lr, or "
            "train.grad_clip=1, helps most often; begin anew, or from an earlier checkpoint"
        )
