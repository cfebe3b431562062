"""The names of the samplers, for `--help` and refusals, which do not wait for JAX."""

import ast
import pathlib
from typing import cast

import iddpm_jax


def sampler_names() -> list[str]:
    """The keys of `diffusion.SAMPLERS`, read from the text of the file that has them."""
    path = pathlib.Path(iddpm_jax.__file__).parent / "diffusion" / "samplers.py"
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        match statement:
            case ast.AnnAssign(target=ast.Name("SAMPLERS"), value=ast.Dict(keys)):
                # A key is None only for `**another_table`.
                return [ast.literal_eval(key) for key in cast(list[ast.expr], keys)]
    raise AssertionError(f"{path} has no table SAMPLERS")
