"""Shapes and types: that the tests check the annotations, and that none is missing."""

import ast
import pathlib

import jax.numpy as jnp
import pytest
from jaxtyping import TypeCheckError

from iddpm_jax import diffusion as dm
from tests.conftest import SHAPES_CHECKED

PACKAGE = pathlib.Path(dm.__file__).resolve().parent.parent


def _is_public(name: str) -> bool:
    return name == "__call__" or not name.startswith("_")


def _public_functions(path: pathlib.Path):
    """The functions of a file, and the methods of its classes, whose names are public."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        inside = node.body if isinstance(node, ast.ClassDef) else [node]
        for function in inside:
            if isinstance(function, ast.FunctionDef) and _is_public(function.name):
                yield function


@pytest.mark.parametrize("module", SHAPES_CHECKED)
def test_public_functions_have_every_argument_and_result_annotated(module):
    missing = []
    where = PACKAGE / module.replace(".", "/")
    for path in sorted(where.glob("*.py")) or [where.with_suffix(".py")]:
        for function in _public_functions(path):
            arguments = function.args
            every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
            every += [argument for argument in (arguments.vararg, arguments.kwarg) if argument]
            missing += [
                f"{path.name}: {function.name}({argument.arg})"
                for argument in every
                if argument.annotation is None and argument.arg not in ("self", "cls")
            ]
            if function.returns is None:
                missing.append(f"{path.name}: {function.name} -> ?")
    assert not missing


def test_annotations_are_checked_when_a_function_is_called():
    d = dm.make_diffusion(
        dm.beta_schedule("cosine", 20), mean_type="epsilon", var_type="learned", loss_type="mse"
    )
    images, t = jnp.zeros((2, 4, 4, 1)), jnp.zeros(2, jnp.int32)
    with pytest.raises(TypeCheckError, match="'noise'"):
        dm.q_sample(d, images, t, images[:, :2])
    with pytest.raises(TypeCheckError, match="'t'"):
        dm.q_sample(d, images, t.astype(jnp.float32), images)
    with pytest.raises(TypeCheckError, match="'x_start'"):
        dm.q_sample(d, images[:1], t, images)
