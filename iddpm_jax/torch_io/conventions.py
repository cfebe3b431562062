"""Two conventions in which a PyTorch run's files may differ from ours, and the conversion.

Shapes do not show either of them:

- The reference adds the gradients of its n microbatches, each the mean over its examples, where
  we average all of them. AdamW's first moment there is n times ours, and the second n² times.
- guided-diffusion's `use_new_attention_order` orders the rows of attention's projection to
  queries, keys and values [q/k/v, head, channel]; improved-diffusion and we,
  [head, q/k/v, channel].
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from iddpm_jax.errors import UsageError
from iddpm_jax.files.untrusted import read_json
from iddpm_jax.torch_io.files import Moments

if TYPE_CHECKING:
    from iddpm_jax.models import UNet

ATTENTION_ORDERS = ("legacy", "new")  # guided-diffusion's names for them.


class Conventions(NamedTuple):
    """How a PyTorch run was, or is to be, made.

    Attributes:
      attention_order: `legacy`, as improved-diffusion, or `new`.
      batch_size: examples of one rank in a step, its `--batch_size`; 0: not known.
      microbatch: examples of one rank per forward pass, its `--microbatch`; below 1: batch_size.
    """

    attention_order: str = "legacy"
    batch_size: int = 0
    microbatch: int = -1

    def microbatches(self) -> int:
        """n, the number of gradients that a rank adds up in a step."""
        if self.microbatch < 1:
            return 1
        return -(-self.batch_size // self.microbatch)

    def record(self) -> dict[str, Any]:
        """Their entries in `imported.json`."""
        return {
            "attention_order": self.attention_order,
            "torch_batch_size": self.batch_size,
            "torch_microbatch": self.microbatch,
        }


def check(conventions: Conventions) -> Conventions:
    """Returns them; UsageError if a microbatch is given without the batch that it is a part of."""
    if conventions.microbatch > 0 and conventions.batch_size < 1:
        raise UsageError(
            f"--torch_microbatch={conventions.microbatch} is a part of a batch: give "
            "--torch_batch_size=…, too, the --batch_size that the PyTorch run has on each rank"
        )
    return conventions


def recorded(workdir: pathlib.Path) -> Conventions:
    """The conventions that a work directory was imported with; else the reference's.

    Raises:
      UsageError: its `imported.json` cannot be read or says something else.
    """
    file = workdir / "imported.json"
    if not file.exists():
        return Conventions()
    values = read_json(file, "the record of the import")
    fields: dict[str, Any] = {
        "attention_order": "legacy",
        "torch_batch_size": 0,
        "torch_microbatch": -1,
    }
    if isinstance(values, dict):
        fields = {key: values.get(key, default) for key, default in fields.items()}
    order, *sizes = fields.values()
    if (
        not isinstance(values, dict)
        or order not in ATTENTION_ORDERS
        or not all(type(size) is int and -1 <= size < 2**31 for size in sizes)
    ):
        raise UsageError(f"{file} is not what import_torch writes: {str(fields)[:200]}")
    return check(Conventions(order, *sizes))


def chosen(workdir: pathlib.Path, **given: Any) -> Conventions:
    """The given conventions, by field; for those that are None, what `recorded` says."""
    changes = {name: value for name, value in given.items() if value is not None}
    return check(recorded(workdir)._replace(**changes))


def arrays_from_torch(
    arrays: Mapping[str, np.ndarray], model: UNet, conventions: Conventions
) -> Mapping[str, np.ndarray]:
    """Arrays by torch's names, with attention's rows in our order; others are not copied."""
    return _reordered(arrays, model, conventions, to_new=False)


def arrays_to_torch(
    arrays: Mapping[str, np.ndarray], model: UNet, conventions: Conventions
) -> Mapping[str, np.ndarray]:
    """The inverse of `arrays_from_torch`."""
    return _reordered(arrays, model, conventions, to_new=True)


def moments_from_torch(moments: Moments, model: UNet, conventions: Conventions) -> Moments:
    """AdamW's state in our order, and of mean gradients instead of summed ones."""
    n = np.float32(conventions.microbatches())
    mu, nu = (arrays_from_torch(m, model, conventions) for m in (moments.mu, moments.nu))
    if n != 1:
        mu = {name: array / n for name, array in mu.items()}
        nu = {name: array / (n * n) for name, array in nu.items()}
    return moments._replace(mu=mu, nu=nu)


def moments_to_torch(moments: Moments, model: UNet, conventions: Conventions) -> Moments:
    """The inverse of `moments_from_torch`: exact where n is a power of two."""
    n = np.float32(conventions.microbatches())
    mu, nu = (arrays_to_torch(m, model, conventions) for m in (moments.mu, moments.nu))
    if n != 1:
        mu = {name: array * n for name, array in mu.items()}
        nu = {name: array * (n * n) for name, array in nu.items()}
    return moments._replace(mu=mu, nu=nu)


def _reordered(
    arrays: Mapping[str, np.ndarray], model: UNet, conventions: Conventions, to_new: bool
) -> Mapping[str, np.ndarray]:
    if conventions.attention_order == "legacy":
        return arrays
    result = dict(arrays)
    for name, array in arrays.items():
        if name.endswith((".qkv.weight", ".qkv.bias")):
            heads = _heads(name, model)
            if array.ndim == 0 or array.shape[0] % (3 * heads):
                raise UsageError(f"{name} has shape {array.shape}, which {heads} heads do not cut")
            first = (heads, 3) if to_new else (3, heads)
            rows = array.reshape(*first, -1, *array.shape[1:])
            result[name] = rows.swapaxes(0, 1).reshape(array.shape)
    return result


def _heads(name: str, model: UNet) -> int:
    on_the_way_up = name.startswith("output_blocks.") and model.num_heads_upsample != -1
    return model.num_heads_upsample if on_the_way_up else model.num_heads
