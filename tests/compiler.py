"""How programs are compiled in the tests: fast, and kept for the next run."""

import importlib.metadata
import os
import pathlib

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Half of the suite's time was LLVM's; programs that it does not optimise take a quarter of that.
# Who gives an optimization level gets it, and nothing else of this: `make test-all` does.
_FAST = ["--xla_backend_optimization_level=0"]
if importlib.metadata.version("jaxlib").startswith("0.10."):  # JAX 0.12 ends at the flag.
    _FAST.append("--xla_cpu_use_fusion_emitters=false")
_GIVEN = os.environ.get("XLA_FLAGS", "")
FLAGS = _GIVEN if "optimization_level" in _GIVEN else " ".join([_GIVEN, *_FAST])


def environment(devices: int) -> dict[str, str]:
    """What JAX has to find in its environment: so many CPU devices, and the tests' cache."""
    return {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".jax_cache" / "tests"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": f"{FLAGS} --xla_force_host_platform_device_count={devices}",
    }
