"""Reads what a compiled program does from its text, an optimised HLO module."""

import math
import re
from typing import NamedTuple

_ARRAY = re.compile(r"\b(pred|[subf]\w*?\d+\w*)\[([\d,]*)\]")
_COLLECTIVE = re.compile(r"= (\S+|\(.*?\)) ((?:all-\w+|reduce-scatter|collective-\w+)(?:-\w+)*)\(")
_PRODUCT = re.compile(
    r"= (\w+)\[([\d,]*)\]\S* (?:convolution|dot)\(.*?(?:op_name=\"([^\"]*)\"|$)", re.MULTILINE
)
_CONSTANT = re.compile(r"= (\w+)\[([\d,]*)\]\S* constant\(")


class Collective(NamedTuple):
    """An exchange between devices.

    Attributes:
      kind: its opcode, such as `all-reduce`; of an asynchronous one without `-start`.
      dtypes: those of what is exchanged.
      bytes: of its result on each device.
    """

    kind: str
    dtypes: tuple[str, ...]
    bytes: int


class Array(NamedTuple):
    """A result of an instruction: its dtype, its bytes, and the operation that it came from."""

    dtype: str
    bytes: int
    origin: str = ""


def collectives(hlo: str) -> list[Collective]:
    """Every exchange between devices, in the order of the text."""
    found = []
    for result, opcode in _COLLECTIVE.findall(hlo):
        if opcode.endswith("-done"):
            continue
        arrays = [Array(dtype, _size(dtype, dims)) for dtype, dims in _ARRAY.findall(result)]
        # Other asynchronous ones than sums return their operands, too.
        if opcode.endswith("-start") and not opcode.startswith("all-reduce"):
            arrays = arrays[len(arrays) // 2 :]
        dtypes = tuple(sorted({array.dtype for array in arrays}))
        size = sum(array.bytes for array in arrays)
        found.append(Collective(opcode.removesuffix("-start"), dtypes, size))
    return found


def products(hlo: str) -> list[Array]:
    """The result of every matrix product and convolution."""
    return [
        Array(dtype, _size(dtype, dims), origin) for dtype, dims, origin in _PRODUCT.findall(hlo)
    ]


def constants(hlo: str) -> list[Array]:
    """Every constant that is in the program."""
    return [Array(dtype, _size(dtype, dims)) for dtype, dims in _CONSTANT.findall(hlo)]


def _size(dtype: str, dims: str) -> int:
    bits = 8 if dtype == "pred" else int(re.search(r"\d+", dtype)[0])
    return math.prod(int(n) for n in dims.split(",") if n) * bits // 8
