"""The arrows between packages point one way."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parent.parent / "iddpm_jax"

# What each part may import: of the package itself, and of everything else.
ALLOWED_INTERNAL = {
    "diffusion": {"diffusion", "errors"},
    "models": {"models", "errors"},
    "data": {"data", "errors", "evaluation.files"},  # Which knows nobody.
    "processes": {"processes", "errors"},
    "evaluation": {"evaluation", "diffusion", "processes", "errors"},
    "training": {"training", "diffusion", "data", "evaluation", "processes", "errors"},
}
ALLOWED_EXTERNAL = {"diffusion": {"jax", "numpy"}, "models": {"jax", "numpy", "flax"}}
CONFIG_READERS = {
    "factory.py",
    "process_factory.py",
    "data_factory.py",
    "configuration.py",
    "defaults.py",
    "recipes.py",
    "config_flag.py",
}
STANDARD = {"collections", "dataclasses", "enum", "functools", "math", "re", "typing"}


def _imports(path: pathlib.Path) -> set[str]:
    """Dotted names of the modules that a file imports, `from a import b` as `a.b`."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("part", ALLOWED_INTERNAL)
def test_imports_point_one_way(part):
    files = list((PACKAGE / part).glob("*.py"))
    assert files
    for path in files:
        for name in _imports(path):
            top, *rest = name.split(".")
            if top == "iddpm_jax":
                known = {rest[0], ".".join(rest[:2])} & ALLOWED_INTERNAL[part]
                assert known, f"{path.name} imports {name}"
            elif part in ALLOWED_EXTERNAL and top not in STANDARD:
                assert top in ALLOWED_EXTERNAL[part], f"{path.name} imports {name}"


def test_imports_of_config_dict_are_in_its_readers_only():
    for path in PACKAGE.rglob("*.py"):
        if path.name not in CONFIG_READERS:
            names = _imports(path) - {"ml_collections.config_flags"}  # Parses the command line.
            assert not any(name.startswith("ml_collections") for name in names), path


def test_imports_of_torch_are_inside_functions():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", "")]
                assert not {"torch", "safetensors"} & {n.split(".")[0] for n in names}, path


def test_files_stay_short():
    for path in PACKAGE.rglob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path
