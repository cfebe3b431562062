"""The house: which files may lie where, what each floor may import, and who reads a ConfigDict."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parent.parent / "iddpm_jax"

# From below. A package may import from lower floors, and from what BESIDE names of its own.
FLOORS = (
    {"errors"},
    {"diffusion", "models", "distributed", "files", "data"},
    {"training", "sampling", "evaluation", "torch_io"},
    {"config", "recipes"},
    {"cli"},
)
BESIDE = {
    "files": {"distributed"},
    "data": {"files"},
    "torch_io": {"training"},
    "config": {"recipes"},
}
ALLOWED_EXTERNAL = {"diffusion": {"jax", "numpy"}, "models": {"jax", "numpy", "flax"}}
STANDARD = {"collections", "dataclasses", "enum", "functools", "math", "re", "typing"}

# A file directly under iddpm_jax/ is a command or the library's face.
COMMANDS = {
    "check_workdir.py",
    "dp_respacing.py",
    "export_torch.py",
    "import_torch.py",
    "nll.py",
    "prepare_data.py",
    "sample.py",
    "super_resolve.py",
    "train.py",
}
FACE = {"__init__.py", "__main__.py", "errors.py", "trained.py"}

# Arrows that still climb: each is to go.
CLIMBING = {
<<<<<<< HEAD
    ("torch_io/flags.py", "config"),
    ("torch_io/recognise.py", "config"),
    ("torch_io/run.py", "config"),
=======
    ("files/output_directory.py", "sampling"),
    ("sampling/pictures.py", "cli"),
    ("sampling/write_samples.py", "cli"),
>>>>>>> 2750c8e (Let config know torch_io, and not the other way round)
}
STRAY = {"huge_pages.py"}


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


def _files() -> list[pathlib.Path]:
    """Every file of the package; recipes are installed with it, but lie in configs/."""
    return [path for path in sorted(PACKAGE.rglob("*.py")) if "recipes" not in path.parts]


def test_files_directly_under_the_package_are_commands_or_its_face():
    assert {path.name for path in PACKAGE.glob("*.py")} == COMMANDS | FACE | STRAY


@pytest.mark.parametrize(
    ("floor", "part"), [(i, part) for i, f in enumerate(FLOORS) for part in sorted(f)]
)
def test_imports_point_down(floor, part):
    allowed = {part, *BESIDE.get(part, ())}.union(*FLOORS[:floor])
    climbing = set()
    for path in _files():
        where = path.relative_to(PACKAGE)
        if part != (where.parts[0] if len(where.parts) > 1 else where.stem):
            continue
        for name in _imports(path):
            top, *rest = name.split(".")
            if top == "iddpm_jax" and rest and rest[0] not in allowed:
                climbing.add((where.as_posix(), rest[0]))
    assert climbing == {arrow for arrow in CLIMBING if arrow[0].startswith(f"{part}/")}


def test_packages_all_have_a_floor():
    packages = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name[0] != "_"}
    assert packages == set.union(*FLOORS) - {"errors"}


@pytest.mark.parametrize("part", ALLOWED_EXTERNAL)
def test_imports_of_the_mathematics_are_few(part):
    for path in (PACKAGE / part).glob("*.py"):
        for name in _imports(path):
            top = name.split(".")[0]
            assert top in STANDARD | ALLOWED_EXTERNAL[part] | {"iddpm_jax"}, f"{path}: {name}"


def test_imports_of_config_dict_are_in_its_readers_only():
    for path in _files():
        if path.parent.name != "config" and path.name != "config_flag.py":
            names = _imports(path) - {"ml_collections.config_flags"}  # Parses the command line.
            assert not any(name.startswith("ml_collections") for name in names), path


def test_imports_of_torch_are_inside_functions():
    for path in _files():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", "")]
                assert not {"torch", "safetensors"} & {n.split(".")[0] for n in names}, path


def test_files_stay_short():
    for path in _files():
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path
