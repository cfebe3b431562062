"""JAX's persistent compilation cache: what was compiled once is loaded the next time."""

import pathlib

import jax


def enable(directory: pathlib.Path) -> None:
    """Keeps compiled programs in `directory/.jax_cache`, unless JAX was told otherwise."""
    if not jax.config.values["jax_compilation_cache_dir"]:
        jax.config.update("jax_compilation_cache_dir", str(directory / ".jax_cache"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
