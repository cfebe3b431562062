"""Counts floating-point operations: of a compiled program, and of a network by its definition.

Only products count, matrix products and convolutions, two operations for each multiplication:
that is what the peak of a machine is stated in.
"""

import collections
import functools
import math
import re

import jax
import jax.numpy as jnp

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (\w+)\[([\d,]*)\]\S* ([\w\-]+)\((.*)$")
_CALLS = re.compile(r"(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


def in_program(hlo: str) -> float:
    """Operations of an optimised HLO module, given as text.

    Loops count as often as they run, conditionals by what all of their branches have.
    """
    products, calls, shapes, current, entry = collections.Counter(), {}, {}, "", ""
    for line in hlo.splitlines():
        if start := _COMPUTATION.match(line):
            current, shapes = start[1], {}
            calls[current] = []
            entry = current if line.startswith("ENTRY") else entry
        elif instruction := _INSTRUCTION.match(line):
            name, _, dims, opcode, rest = instruction.groups()
            shapes[name] = _sizes(dims)
            products[current] += _of_product(opcode, shapes[name], rest, shapes)
        if current and " = " in line:
            trips = (
                re.search(r'known_trip_count":\{"n":"(\d+)"', line) if " while(" in line else None
            )
            called = _CALLS.findall(line)
            for branches in _BRANCHES.findall(line):
                called += [name.strip().lstrip("%") for name in branches.split(",")]
            calls[current] += [(name, int(trips[1]) if trips else 1) for name in called]

    @functools.cache
    def total(computation: str) -> float:
        inner = sum(times * total(name) for name, times in calls.get(computation, ()))
        return products[computation] + inner

    return total(entry)


def _of_product(opcode: str, out: list[int], rest: str, shapes: dict[str, list[int]]) -> float:
    operands = re.findall(r"%([\w.\-]+)", rest.split(")")[0])
    if opcode == "dot":
        lhs = shapes[operands[0]]
        summed = _sizes(re.search(r"lhs_contracting_dims=\{([\d,]*)\}", rest)[1])
        return 2 * math.prod(out) * math.prod(lhs[i] for i in summed)
    if opcode == "convolution":
        window = re.search(r"window=\{([^}]*)\}", rest)[1]
        size = [int(n) for n in re.search(r"size=([\dx]+)", window)[1].split("x")]
        dilated = re.search(r"lhs_dilate=([\dx]+)", window)  # Zeros between inputs.
        zeros = math.prod(int(n) for n in dilated[1].split("x")) if dilated else 1
        labels = re.search(r"dim_labels=\w+_(\w+)->", rest)[1]
        summed = shapes[operands[1]][labels.index("i")]
        return 2 * math.prod(out) * math.prod(size) * summed / zeros
    return 0


def _sizes(text: str) -> list[int]:
    return [int(n) for n in text.split(",") if n]


def of_network(model, image_size: int) -> float:
    """Operations of one image's way through a network, by the definition of its layers.

    A layer with kernel [… , C, O] has 2 · |kernel| for each position of its output, attention
    over N positions of C channels 4 N² C on top. Training takes three times as much: the gradients
    of a layer's input and of its kernel are as expensive as the layer.
    """
    x = jax.ShapeDtypeStruct((1, image_size, image_size, model.in_channels), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.float32)
    y = jax.ShapeDtypeStruct((1,), jnp.int32) if model.num_classes else None

    def apply(x, t, y):
        variables = {"params": model.init_params(jax.random.key(0))}
        _, seen = model.apply(variables, x, t, y, capture_intermediates=True)
        return variables["params"], seen["intermediates"]

    params, outputs = jax.eval_shape(apply, x, t, y)
    operations = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        *module, kind = (key.key for key in path)
        if kind != "kernel":
            continue
        node = outputs
        for name in module:
            node = node[name]
        shape = node["__call__"][0].shape
        operations += 2 * math.prod(leaf.shape) * math.prod(shape[1:-1])
        if module[-1] == "qkv":
            positions, channels = shape[1], shape[2] // 3
            operations += 4 * positions**2 * channels
    return operations
