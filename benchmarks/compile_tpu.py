"""Compiles a recipe's programs for TPUs, without a TPU, and tells what the compiler says of them.

    pip install -r requirements-tpu.txt
    python -m benchmarks.compile_tpu --recipe=cifar10_cosine --topology=v5e:2x2 --batch=512

The programs are the real ones: the train step over all chips of the topology, `--program=sample`
one step of ancestral sampling. It is XLA's compiler for TPUs that speaks; nothing runs and nothing
is measured. `--largest` doubles the images of each chip until its memory does not hold them.
"""

import collections
import importlib.util
import json
import os
import time
from typing import Any, NamedTuple

# Before JAX is imported: libtpu asks no metadata server what machine this is, and lets others
# compile beside us; what is compiled for a topology cannot be loaded from the cache.
os.environ |= {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_ENABLE_COMPILATION_CACHE": "false",
    "JAX_PLATFORMS": "cpu",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
}

import jax
from absl import app, flags
from jax.experimental import topologies
from jax.sharding import Mesh

from benchmarks import flops, hlo
from benchmarks.jax_contestants import (
    abstract_examples,
    build_train_step,
    bytes_besides_arguments,
    sampling_step,
)
from iddpm_jax.config.build_model import build_model
from iddpm_jax.config.recipes import packaged_recipe
from iddpm_jax.distributed.mesh import batch_sharding, make_mesh

_RECIPE = flags.DEFINE_string("recipe", "digits", "A recipe in configs/.")
_TOPOLOGY = flags.DEFINE_string("topology", "v5e:2x2", "Chips: v5e:2x4, v5e:16x16, v5p:2x2x1, …")
_CHIPS = flags.DEFINE_integer("chips", 0, "Use the first so many chips; 0: all.", lower_bound=0)
_PROGRAM = flags.DEFINE_enum("program", "train", ["train", "sample"], "What to compile.")
_BATCH = flags.DEFINE_integer("batch", 0, "Images over all chips; 0: the recipe's.", lower_bound=0)
_DTYPE = flags.DEFINE_string("dtype", "bfloat16", "Compute dtype.")
_CHECKPOINT = flags.DEFINE_bool("use_checkpoint", False, "model.use_checkpoint.")
_SHARD = flags.DEFINE_bool("shard_optimizer", False, "train.shard_optimizer.")
_LARGEST = flags.DEFINE_bool("largest", False, "Look for the largest batch that fits.")
_OUT = flags.DEFINE_string("hlo", "", "Write the compiled program's text into this file.")


class Chip(NamedTuple):
    """What its maker states: bytes of memory, bf16 operations and bytes moved in a second."""

    memory: float
    flops: float
    bandwidth: float


# cloud.google.com/tpu/docs/system-architecture-tpu-vm
CHIPS = {
    "v4": Chip(32 * 2**30, 275e12, 1228e9),
    "v5e": Chip(16 * 2**30, 197e12, 819e9),
    "v5p": Chip(95 * 2**30, 459e12, 2765e9),
    "v6e": Chip(32 * 2**30, 918e12, 1640e9),
}


class DoesNotFitError(Exception):
    """The compiler found no place for a program in a chip's memory."""


def topology_mesh(topology: str, chips: int = 0) -> Mesh:
    """A mesh of the first `chips` chips of a topology, by default all; none of them is there."""
    if importlib.util.find_spec("libtpu") is None:
        raise app.UsageError("libtpu is not installed: pip install -r requirements-tpu.txt")
    try:
        described = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except jax.errors.JaxRuntimeError as error:
        raise app.UsageError(f"--topology={topology}: {error}") from error
    return make_mesh(described.devices[: chips or None])


def lower(config, program: str, mesh: Mesh) -> jax.stages.Lowered:
    """Lowers a recipe's train step or sampling step for a mesh."""
    model = build_model(config)
    if program == "sample":
        step, arguments = sampling_step(config, model, mesh)
        return step.lower(*arguments)
    step, _, state = build_train_step(config, model, mesh)
    batch = abstract_examples(config, config.train.batch_size, batch_sharding(mesh))
    return step.lower(state, batch)


def compile_lowered(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """Compiles a program; raises DoesNotFitError where the memory does not suffice."""
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            raise DoesNotFitError(str(error).splitlines()[0]) from error
        raise


def facts(compiled: jax.stages.Compiled) -> dict[str, Any]:
    """What the compiler says of a program; bytes, operations and seconds of each chip."""
    memory, cost, text = compiled.memory_analysis(), compiled.cost_analysis(), compiled.as_text()
    products = hlo.products(text)
    return {
        "state_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": bytes_besides_arguments(memory),
        "program_bytes": memory.generated_code_size_in_bytes,
        "flops": cost["flops"],
        "bytes_accessed": cost["bytes accessed"],
        "estimated_seconds": cost.get("optimal_seconds", 0.0),
        "collectives": [collective._asdict() for collective in hlo.collectives(text)],
        "largest_constant_bytes": max((c.bytes for c in hlo.constants(text)), default=0),
        "products": len(products),
        "products_not_bfloat16": [p.origin for p in products if p.dtype != "bf16"],
    }


def expected_flops(config, program: str, chips: int) -> float:
    """Operations of each chip by the definition of the network (`flops.of_network`)."""
    once = flops.of_network(build_model(config), config.model.image_size)
    return once * (3 if program == "train" else 1) * config.train.batch_size / chips


def largest_batch(config, program: str, mesh: Mesh) -> int:
    """The largest power of two of images a chip that fits, over all chips; 0: not one image."""
    fits, chips, images = 0, mesh.devices.size, 1
    while True:
        config.train.batch_size = images * chips
        try:
            compile_lowered(lower(config, program, mesh))
        except DoesNotFitError as error:
            print(f"batch {images * chips:,} does not fit: {error}", flush=True)
            return fits
        fits, images = images * chips, images * 2
        print(f"batch {fits:,} fits", flush=True)


def _rows(found: dict[str, Any], expected: float, chip: Chip) -> list[tuple[str, str]]:
    state, temporary = found["state_bytes"], found["temporary_bytes"]
    seconds, moved = found["estimated_seconds"], found["bytes_accessed"]
    exchanged = collections.defaultdict(list)
    for one in found["collectives"]:
        kind = f"{one['kind']} of {', '.join(one['dtypes'])}"
        exchanged[kind].append(one["bytes"])
    used = f"{100 * expected / seconds / chip.flops:.0f} %" if seconds > 0 else "no estimate"
    other = collections.Counter(
        origin.split("/")[-2] for origin in found["products_not_bfloat16"] if "/" in origin
    )
    return [
        ("seconds to lower", f"{found['lower_seconds']:.0f}"),
        ("seconds to compile", f"{found['compile_seconds']:.0f}"),
        ("state", _gib(state)),
        ("temporary", _gib(temporary)),
        ("program", _gib(found["program_bytes"])),
        ("share of the chip's memory", f"{100 * (state + temporary) / chip.memory:.0f} %"),
        ("operations by the compiler", f"{found['flops'] / 1e12:.3g} TFLOP"),
        ("operations by definition", f"{expected / 1e12:.3g} TFLOP"),
        ("bytes accessed", _gib(moved)),
        ("operations for each byte", f"{found['flops'] / moved:.0f}"),
        ("compiler's estimate", f"{1000 * seconds:.2f} ms"),
        ("share of the peak by that estimate", used),
        ("least time by operations", f"{1000 * expected / chip.flops:.2f} ms"),
        ("least time by bytes", f"{1000 * moved / chip.bandwidth:.2f} ms"),
        *((kind, f"{len(sizes)}, {sum(sizes):,} B in all") for kind, sizes in exchanged.items()),
        ("largest constant", f"{found['largest_constant_bytes']:,} B"),
        ("matrix products and convolutions", str(found["products"])),
        *((f"not in bfloat16: {layer}", str(count)) for layer, count in other.items()),
    ]


def _gib(count: float) -> str:
    return f"{count / 2**30:.2f} GiB"


def _configured():
    config = packaged_recipe(_RECIPE.value)
    config.model.dtype, config.model.use_checkpoint = _DTYPE.value, _CHECKPOINT.value
    config.train.shard_optimizer = _SHARD.value
    config.train.batch_size = _BATCH.value or config.train.batch_size
    return config


def main(_) -> None:
    name = _TOPOLOGY.value.split(":")[0]
    if name not in CHIPS:
        raise app.UsageError(f"--topology={_TOPOLOGY.value}: of {name} no peak is known here")
    config, mesh = _configured(), topology_mesh(_TOPOLOGY.value, _CHIPS.value)
    if _LARGEST.value:
        print(f"largest batch: {largest_batch(config, _PROGRAM.value, mesh):,}")
        return
    chips = mesh.devices.size
    if config.train.batch_size % chips:
        raise app.UsageError(f"--batch={config.train.batch_size} is not divisible by {chips} chips")
    start = time.perf_counter()
    lowered = lower(config, _PROGRAM.value, mesh)
    at = time.perf_counter()
    compiled = compile_lowered(lowered)
    found = facts(compiled)
    found |= {"lower_seconds": at - start, "compile_seconds": time.perf_counter() - at}
    if _OUT.value:
        with open(_OUT.value, "w") as file:
            file.write(compiled.as_text())
    print("| of each chip; by the compiler, not measured | |\n| --- | --- |")
    for what, value in _rows(found, expected_flops(config, _PROGRAM.value, chips), CHIPS[name]):
        print(f"| {what} | {value} |")
    print(json.dumps(found))


if __name__ == "__main__":
    app.run(main)
