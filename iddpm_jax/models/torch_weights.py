"""Converts parameters between OpenAI's torch state dicts and our parameter tree.

Everything works on plain dicts of numpy arrays; torch itself is not needed.

| torch                                 | here                      |
| ------------------------------------- | ------------------------- |
| time_embed.{0,2}                      | time_embed_{0,2}          |
| label_emb.weight                      | label_emb/embedding       |
| input_blocks.0.0                      | down_0_conv               |
| input_blocks.i.{0,1}                  | down_i_{res,attn}         |
| input_blocks.i.0.op                   | down_i_downsample/conv    |
| middle_block.{0,1,2}                  | mid_{0_res,1_attn,2_res}  |
| output_blocks.i.{0,1}                 | up_i_{res,attn}           |
| output_blocks.i.{1 or 2}.conv         | up_i_upsample/conv        |
| out.{0,2}                             | out_norm, out_conv        |
| kernels [O, I, …]                     | [.., I, O]                |
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from iddpm_jax.errors import UsageError
from iddpm_jax.models.unet import UNet, abstract_params

Path = tuple[str, ...]

_RES = {
    "in_norm": "in_layers.0",
    "in_conv": "in_layers.2",
    "emb_proj": "emb_layers.1",
    "out_norm": "out_layers.0",
    "out_conv": "out_layers.3",
    "skip": "skip_connection",
}
_ATTN = {"norm": "norm", "qkv": "qkv", "proj_out": "proj_out"}
_TOP = {
    "time_embed_0": "time_embed.0",
    "time_embed_2": "time_embed.2",
    "label_emb": "label_emb",
    "down_0_conv": "input_blocks.0.0",
    "out_norm": "out.0",
    "out_conv": "out.2",
}
_LEAF = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}
# Modules in the order in which the reference registers them, parts of a block included.
_REGISTERED = (
    *("time_embed", "label_emb", "input_blocks", "middle_block", "output_blocks", "out"),
    *("in_layers", "emb_layers", "out_layers", "skip_connection"),
    *("norm", "qkv", "proj_out", "op", "conv"),
    *("weight", "bias"),
)
_BLOCK = re.compile(r"(down|mid|up)_(\d+)_(res|attn|downsample|upsample)")


def _torch_name(path: Path, blocks: set[str]) -> str:
    """The torch name of the parameter at `path`; `blocks` are the tree's top-level names."""
    top, *inner, leaf = path
    if top in _TOP:
        return f"{_TOP[top]}.{_LEAF[leaf]}"
    match = _BLOCK.fullmatch(top)
    if match is None:
        raise UsageError(f"parameter {'/'.join(path)} is not one of a UNet")
    side, index, kind = match.groups()
    layer = {"res": _RES, "attn": _ATTN, "downsample": {"conv": "op"}, "upsample": {"conv": "conv"}}
    name = layer[kind][inner[0]]
    if side == "mid":
        return f"middle_block.{index}.{name}.{_LEAF[leaf]}"
    # Within a block torch numbers what is there: residual block, attention, up-sampling.
    position = {"res": 0, "downsample": 0, "attn": 1, "upsample": 1}[kind]
    if kind == "upsample" and f"up_{index}_attn" in blocks:
        position = 2
    torch_blocks = "input_blocks" if side == "down" else "output_blocks"
    return f"{torch_blocks}.{index}.{position}.{name}.{_LEAF[leaf]}"


def _is_pointwise(path: Path) -> bool:
    """Attention projections are linear layers here and 1-wide convolutions there."""
    return path[-1] == "kernel" and path[-2] in ("qkv", "proj_out")


def _to_torch_layout(path: Path, value: np.ndarray) -> np.ndarray:
    if path[-1] != "kernel":
        return value
    value = np.moveaxis(value, (-1, -2), (0, 1))
    return value[..., None] if _is_pointwise(path) else value


def _from_torch_layout(path: Path, value: np.ndarray) -> np.ndarray:
    if path[-1] != "kernel":
        return value
    value = value[..., 0] if _is_pointwise(path) else value
    return np.moveaxis(value, (0, 1), (-1, -2))


def _torch_shape(path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    # A view of one element, so that the rules of layouts are written once and copy nothing.
    return _to_torch_layout(path, np.broadcast_to(np.float32(0), shape)).shape


def _flatten(tree: Mapping, prefix: Path = ()) -> Iterable[tuple[Path, Any]]:
    """(path, leaf) of every parameter of a tree of dicts."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, (*prefix, name))
        else:
            yield (*prefix, name), value


def _insert(tree: dict, path: Path, value: np.ndarray) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value


def _registration_key(name: str) -> list[int]:
    """The key that sorts torch names as the reference registers its parameters."""
    return [int(x) if x.isdigit() else _REGISTERED.index(x) for x in name.split(".")]


def _in_registration_order(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    return {name: state_dict[name] for name in sorted(state_dict, key=_registration_key)}


def torch_param_shapes(model: UNet) -> dict[str, tuple[int, ...]]:
    """Name and shape of every parameter that the torch form of `model` has.

    The order is that of `model.parameters()` in torch, by which its optimisers number them.
    """
    params = abstract_params(model)
    blocks = set(params)
    return _in_registration_order(
        {
            _torch_name(path, blocks): _torch_shape(path, leaf.shape)
            for path, leaf in _flatten(params)
        }
    )


def params_to_torch(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Our parameter tree as a torch state dict of numpy arrays, each C-contiguous, in order."""
    blocks = set(params)
    return _in_registration_order(
        {
            _torch_name(path, blocks): np.ascontiguousarray(
                _to_torch_layout(path, np.asarray(value))
            )
            for path, value in _flatten(params)
        }
    )


def params_from_torch(state_dict: Mapping[str, np.ndarray], model: UNet) -> dict[str, Any]:
    """A torch state dict (of numpy arrays) as the parameter tree of `model`.

    Nothing is copied: the leaves are views of the given arrays.

    Raises:
      UsageError: parameters that are missing, surplus or of another shape; all are named.
    """
    params = abstract_params(model)
    blocks = set(params)
    wanted = {_torch_name(path, blocks): (path, leaf) for path, leaf in _flatten(params)}
    problems = [f"missing {name}" for name in wanted.keys() - state_dict.keys()]
    problems += [f"surplus {name!r:.80}" for name in state_dict.keys() - wanted.keys()]
    tree: dict = {}
    for name in wanted.keys() & state_dict.keys():
        path, leaf = wanted[name]
        value = np.asarray(state_dict[name])
        expected = _torch_shape(path, leaf.shape)
        if value.shape != expected:
            problems.append(f"{name} has shape {value.shape}, expected {expected}")
        else:
            _insert(tree, path, _from_torch_layout(path, value))
    if problems:
        shown = "\n  ".join(sorted(problems)[:20])
        more = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise UsageError(f"the weights do not fit the network:\n  {shown}{more}")
    # Rebuilt in the tree's own order, which the set operations above do not keep.
    return _ordered_like(tree, params)


def _ordered_like(tree: dict, like: Mapping) -> dict:
    """`tree` with the keys of all its dicts in the order of `like`."""
    return {
        name: _ordered_like(tree[name], value) if isinstance(value, Mapping) else tree[name]
        for name, value in like.items()
    }
