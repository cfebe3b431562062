"""Reading and writing files of torch: state dicts of networks and of AdamW.

Files from outside are loaded by `torch_load`, which trusts none of them. torch itself is optional
and imported when a file is read or written.
"""

import pathlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from iddpm_jax.errors import UsageError
from iddpm_jax.files.atomic import replacing
from iddpm_jax.torch_io.load import load, require_torch, shown


class Moments(NamedTuple):
    """State of AdamW: moments by parameter name, and what its updates depend on."""

    count: int  # Updates made.
    mu: dict[str, np.ndarray]
    nu: dict[str, np.ndarray]
    lr: float
    weight_decay: float


def read_state_dict(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The tensors of a state dict, in float32, by name.

    Where the format allows, they are views of the file, which is read when they are.

    Raises:
      UsageError: the file is missing, damaged, would run code, or holds something else.
    """
    value = load(path)
    if isinstance(value, Mapping) and {"state", "param_groups"} <= set(value):
        raise UsageError(f"{path} is the state of an optimiser; give it as --optimizer")
    if not isinstance(value, Mapping) or not value:
        raise UsageError(f"{path} holds no state dict, but {_describe(value)}")
    for name, item in value.items():
        if isinstance(item, Mapping):
            raise UsageError(
                f"{path} holds no plain state dict, but {_describe(value)}; save the state dict "
                "alone"
            )
        if not isinstance(name, str):
            raise UsageError(f"{path} holds no plain state dict: it has the name {shown(name)}")
        if name.startswith("module."):
            raise UsageError(f"{path}: {shown(name)} is of a wrapped model; strip 'module.'")
    arrays = _to_numpy(path, value)
    _check_finite(path, arrays)
    return arrays


def read_optimizer(path: pathlib.Path, shapes: Mapping[str, tuple[int, ...]]) -> Moments:
    """The state of an AdamW, whose parameters torch numbers in the order of `shapes`.

    A run in half precision keeps all parameters in one vector; it is cut into its pieces.

    Raises:
      UsageError: the file is missing, damaged, would run code, is of another optimiser, or
        does not fit the parameters.
    """
    value = load(path)
    try:
        return _moments(path, value, shapes)
    except (TypeError, KeyError, OverflowError, RuntimeError) as error:
        raise UsageError(
            f"{path} is not the state of an AdamW ({type(error).__name__}: {shown(error)})"
        ) from error


def _moments(path: pathlib.Path, value: Any, shapes: Mapping[str, tuple[int, ...]]) -> Moments:
    if not isinstance(value, Mapping) or not {"state", "param_groups"} <= set(value):
        raise UsageError(f"{path} is not the state of an optimiser, but {_describe(value)}")
    group = _adamw_group(path, value["param_groups"])
    states = value["state"]
    if not isinstance(states, Mapping) or not all(isinstance(s, Mapping) for s in states.values()):
        raise UsageError(f"{path} is not the state of an AdamW: 'state' is {_describe(states)}")
    if not states:
        raise UsageError(f"{path} is of an optimiser that has not taken a step yet")
    count = _count(path, states)
    moments = []
    for kind in ("exp_avg", "exp_avg_sq"):
        entries = {f"{kind} {i}": _entry(path, states, i, kind) for i in group["params"]}
        moments.append(_by_name(path, kind, list(_to_numpy(path, entries).values()), shapes))
        _check_finite(path, moments[-1])
    if any((array < 0).any() for array in moments[1].values()):
        raise UsageError(f"{path}: a second moment (exp_avg_sq) is negative")
    return Moments(
        count, *moments, lr=float(group["lr"]), weight_decay=float(group["weight_decay"])
    )


def write_state_dict(path: pathlib.Path, state_dict: Mapping[str, np.ndarray]) -> None:
    """Writes a state dict as `torch.save(model.state_dict(), path)` does."""
    torch = require_torch()
    tensors = OrderedDict((name, torch.tensor(array)) for name, array in state_dict.items())
    _save(path, tensors)


def write_optimizer(path: pathlib.Path, moments: Moments) -> None:
    """Writes the state of an AdamW as `torch.save(optimizer.state_dict(), path)` does."""
    torch = require_torch()
    # An optimiser of this torch fills in the options that only it knows. Views of one element
    # stand for the parameters, whose values are no part of its state.
    parameters = [torch.zeros(1).expand(array.shape) for array in moments.mu.values()]
    optimizer = torch.optim.AdamW(
        [torch.nn.Parameter(p) for p in parameters],
        lr=moments.lr,
        weight_decay=moments.weight_decay,
    )
    states = {
        i: {
            "step": torch.tensor(float(moments.count)),
            "exp_avg": torch.tensor(moments.mu[name]),
            "exp_avg_sq": torch.tensor(moments.nu[name]),
        }
        for i, name in enumerate(moments.mu)
    }
    groups = optimizer.state_dict()["param_groups"]
    _save(path, {"state": states, "param_groups": groups})


def _save(path: pathlib.Path, value: Any) -> None:
    """Writes the whole file or none."""
    try:
        with replacing(path) as file:
            require_torch().save(value, file)
    except (OSError, RuntimeError) as error:
        raise UsageError(f"{path} cannot be written: {shown(error)}") from error


def _to_numpy(path: pathlib.Path, tensors: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Plain dense tensors of floats as float32 arrays, views where they are float32 already."""
    torch = require_torch()
    floats = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    size = 0
    for name, tensor in tensors.items():
        dense = type(tensor) in (torch.Tensor, torch.nn.Parameter) and not tensor.is_nested
        dense = dense and tensor.layout is torch.strided and tensor.device.type == "cpu"
        if not dense or tensor.dtype not in floats:
            raise UsageError(
                f"{path}: {shown(name)} is {_describe(tensor)}, not a tensor of floats"
            )
        size += tensor.numel() * tensor.element_size()
    # Views with a stride of 0, or many of one storage, may claim any size.
    if size > path.stat().st_size:
        raise UsageError(f"{path}: the tensors claim {size} bytes, more than the file has")
    return {
        name: tensor.detach().resolve_neg().to(torch.float32).numpy()
        for name, tensor in tensors.items()
    }


def _check_finite(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    bad = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if bad:
        more = f" and {len(bad) - 10} more" if len(bad) > 10 else ""
        raise UsageError(
            f"{path} has NaN or infinite values in {', '.join(map(shown, bad[:10]))}{more}"
        )


def _adamw_group(path: pathlib.Path, groups: Any) -> Mapping[str, Any]:
    """The only group of parameters; UsageError unless its options are ones that we have."""
    if not isinstance(groups, Sequence) or len(groups) != 1 or not isinstance(groups[0], Mapping):
        raise UsageError(f"{path}: the optimiser should have one group of parameters")
    group = groups[0]
    missing = {"lr", "betas", "eps", "weight_decay", "params"} - set(group)
    if missing:
        raise UsageError(f"{path} is not the state of an AdamW: it lacks {sorted(missing)}")
    wanted = {
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "amsgrad": False,
        "maximize": False,
        "decoupled_weight_decay": True,  # False in the state of Adam.
    }
    for key, value in wanted.items():
        found = group.get(key, value)
        found = tuple(map(float, found)) if key == "betas" else type(value)(found)
        if found != value:
            raise UsageError(f"{path}: the optimiser has {key}={found}, here it is {value}")
    return group


def _entry(path: pathlib.Path, states: Mapping, index: Any, key: str) -> Any:
    try:
        return states[index][key]
    except KeyError:
        raise UsageError(f"{path} has no {key} of parameter {shown(index)}") from None


def _count(path: pathlib.Path, states: Mapping) -> int:
    counts = {float(_entry(path, states, i, "step")) for i in states}
    if len(counts) != 1:
        raise UsageError(
            f"{path}: parameters have taken different numbers of steps: {sorted(counts)[:5]}"
        )
    count = counts.pop()
    if count != int(count) or not 0 < count < 2**31:
        raise UsageError(f"{path}: {count} is no number of steps")
    return int(count)


def _by_name(
    path: pathlib.Path, kind: str, flat: list[np.ndarray], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    sizes = [int(np.prod(shape)) for shape in shapes.values()]
    if len(flat) == 1 and len(shapes) > 1 and flat[0].shape == (sum(sizes),):
        pieces = np.split(flat[0], np.cumsum(sizes)[:-1])
        return {n: p.reshape(s) for (n, s), p in zip(shapes.items(), pieces, strict=True)}
    if len(flat) != len(shapes):
        raise UsageError(f"{path} is of {len(flat)} parameters, but the network has {len(shapes)}")
    for (name, shape), array in zip(shapes.items(), flat, strict=True):
        if array.shape != tuple(shape):
            raise UsageError(f"{path}: {kind} of {name} has shape {array.shape}, expected {shape}")
    return dict(zip(shapes, flat, strict=True))


def _describe(value: Any) -> str:
    if isinstance(value, Mapping):
        names = ", ".join(shown(key) for key in list(value)[:5])
        return f"a dict of {names or 'nothing'}"
    dtype = f" of {value.dtype}" if hasattr(value, "dtype") else ""
    return f"a {type(value).__name__}{dtype}"
