"""What the train-step and the sampling benchmark share: flags, contestants and the table."""

import json
import pathlib
import platform
import sys
from collections.abc import Sequence

from absl import flags

from benchmarks import flops
from benchmarks.contest import Contestant, Result, compete
from iddpm_jax.config.build_model import build_model
from iddpm_jax.config.recipes import packaged_recipe

_RECIPE = flags.DEFINE_string("recipe", "cifar10_cosine", "Network: a recipe in configs/.")
_BATCHES = flags.DEFINE_list("batches", ["4", "16"], "Batch sizes.")
_DTYPE = flags.DEFINE_enum(
    "dtype", "float32", ["float32", "bfloat16", "float16"], "Compute dtype; autocast in PyTorch."
)
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Times that everyone is timed; medians are shown.")
_PEERS = flags.DEFINE_list(
    "peers",
    ["eager", "channels_last", "compile"],
    "PyTorch as it is, with channels_last, and compiled as well. Needs torch and diffusers.",
)
_OUT = flags.DEFINE_string("out", None, "File for the rows, in lines of JSON.")

_OURS, _PEAK = "iddpm_jax", "matrix product"

# Everyone's: huge pages for what malloc gets (docs/performance.md), and on a GPU, whose memory
# two processes share, as much of it as is needed, where JAX would take three quarters at once.
_ENVIRONMENT = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
}


def compare(kind: str, passes: int, steps: int = 1, **options) -> None:
    """Times `kind` (`train_step` or `sampling`) for all batches, and prints the table.

    Args:
      passes: how often a network's forward pass the arithmetic of a step amounts to.
      steps: how many steps a turn takes.
      **options: for our contestant alone.
    """
    config = packaged_recipe(_RECIPE.value)
    network = flops.of_network(build_model(config), config.model.image_size)
    print(f"{_RECIPE.value}, {_DTYPE.value}; {platform.processor() or platform.machine()}")
    print("| batch | | first call | step | images/s | FLOP/s | of the peak | ours is | memory |")
    print(f"|{' --- |' * 9}", flush=True)
    for batch in map(int, _BATCHES.value):
        results = compete(_contestants(kind, batch, steps, options), _ROUNDS.value, progress=_say)
        ours = next(result for result in results if result.name == _OURS)
        peak = next(result for result in results if result.name == _PEAK)
        flops_per_second = peak.facts.get("flops", 0) / peak.median
        for result in results:
            if result is peak:
                continue
            row = _row(result, batch, steps, passes * batch * network, flops_per_second)
            row["ours_is_faster_by"] = result.median / ours.median
            print(_markdown(row), flush=True)
            if _OUT.value:
                identity = {"benchmark": kind, "recipe": _RECIPE.value, "dtype": _DTYPE.value}
                with pathlib.Path(_OUT.value).open("a", encoding="utf-8") as file:
                    file.write(json.dumps({**identity, **row}) + "\n")


def _contestants(kind: str, batch: int, steps: int, options) -> Sequence[Contestant]:
    shared = {"recipe": _RECIPE.value, "batch": batch, "dtype": _DTYPE.value}
    shared |= {"steps": steps} if kind == "sampling" else {}
    product = {"dtype": _DTYPE.value}
    contestants = {
        _OURS: (f"jax_contestants:{kind}", {**shared, **options}),
        **{
            f"PyTorch {form}": (f"torch_contestants:{kind}", {**shared, "form": form})
            for form in _PEERS.value
        },
        _PEAK: ("jax_contestants:matrix_product", product),
    }
    return [
        Contestant(name, f"benchmarks.{build}", given, _ENVIRONMENT)
        for name, (build, given) in contestants.items()
    ]


def _row(result: Result, batch: int, steps: int, operations: float, peak: float) -> dict:
    seconds = result.median / steps
    return {
        "name": result.name,
        "batch": batch,
        "step_ms": 1e3 * seconds,
        "images_per_second": batch / seconds,
        "flops_by_definition": operations,
        "flops_per_second": operations / seconds,
        "share_of_peak": operations / seconds / peak,
        "all_step_ms": [1e3 * s / steps for s in result.seconds],
        "error": result.error,
        **result.facts,
    }


def _markdown(row: dict) -> str:
    if row["error"]:
        return f"| {row['batch']} | {row['name']} | failed: {row['error']} |"
    first = row.get("compile_seconds") or row["first_call_seconds"]
    memory = row.get("device_bytes") or row["peak_resident_bytes"]
    cells = (
        f"{row['batch']}",
        row["name"],
        f"{first:.1f} s",
        f"{row['step_ms']:.4g} ms",
        f"{row['images_per_second']:.3g}",
        f"{row['flops_per_second'] / 1e9:.4g} G",
        f"{row['share_of_peak']:.0%}",
        f"{row['ours_is_faster_by']:.2f} ×",
        f"{memory / 2**30:.2f} GiB",
    )
    return f"| {' | '.join(cells)} |"


def _say(round_number: int) -> None:
    print(f"\rround {round_number + 1}", end="", file=sys.stderr, flush=True)
