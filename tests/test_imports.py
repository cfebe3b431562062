"""The house: which files may lie where, what each floor may import, and who reads a ConfigDict."""

import ast
import pathlib

import pytest

from tests import config_reads

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
ALLOWED_EXTERNAL = {
    "diffusion": {"jax", "jaxtyping", "numpy"},
    "models": {"flax", "jax", "jaxtyping", "numpy"},
}
STANDARD = {"collections", "dataclasses", "enum", "functools", "inspect", "math", "re", "typing"}

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
CLIMBING: set[tuple[str, str]] = set()
# Functions that are still longer than 60 lines: each is to be cut.
LONG: set[tuple[str, str]] = set()


def _imports(path: pathlib.Path) -> set[str]:
    """Dotted names of the modules that a file imports, `from a import b` as `a.b`.

    Of a name that is put together when it is imported, the parts that the file says.
    """
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func):
            constants = (c.value for c in ast.walk(node) if isinstance(c, ast.Constant))
            names |= {value for value in constants if isinstance(value, str)}
    return names


def _files() -> list[pathlib.Path]:
    """Every file of the package; recipes are installed with it, but lie in configs/."""
    return [path for path in sorted(PACKAGE.rglob("*.py")) if "recipes" not in path.parts]


def test_files_directly_under_the_package_are_commands_or_its_face():
    assert {path.name for path in PACKAGE.glob("*.py")} == COMMANDS | FACE


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


def test_config_dicts_are_read_by_config_only():
    reads = {}
    for path in _files():
        where = path.relative_to(PACKAGE).as_posix()
        if not where.startswith("config/") and where != "cli/config_flag.py":
            reads[where] = config_reads.find(path.read_text(encoding="utf-8"), PACKAGE)
    assert not any(reads.values()), reads


@pytest.mark.parametrize(
    "source",
    [
        "def f(config): return config.train",
        "def f(config): return config['train']",
        "def f(config): return 'train' in config",
        "def f(config): return g(**config)",
        "def f(config): return getattr(config, 'train')",
        "def f(config): return dict(config)",
        "def f(config): c = config; return c.train",
        "def f(config):\n    for key in config: g(key)",
        "def f(run): return run.config.to_dict()",
        "def f(anything): return anything.train.ema_rate",
        "def f(x): return x.cfg.model.image_size",
        "def f(x: ml_collections.ConfigDict): g(x)",
        "def f() -> 'ConfigDict': g()",
        "x: ConfigDict = g()",
        "import ml_collections",
        "from iddpm_jax.config import defaults\ndefaults.get_config().to_dict()",
        "from iddpm_jax.config.recipes import load_recipe as load\nx = load('digits')\nx.train",
        "from iddpm_jax.cli import config_flag\n(x := config_flag.value()).model",
        "from iddpm_jax.cli import config_flag\ny = config_flag.value() if g() else None\ny.model",
    ],
)
def test_config_reads_are_found_under_any_name(source):
    assert config_reads.find(source, PACKAGE)


@pytest.mark.parametrize(
    "source",
    [
        "def f(config): return build_model(config)",
        "def f(values): return values['train.lr'], values.get('model.dropout')",
        "import jax\njax.config.update('jax_platforms', 'cpu')",
        "from iddpm_jax.config import defaults\ng(defaults.get_config())",
        "def f(run): return Identity(config=run.config), run.model.dropout, run.diffusion.betas",
        "def f(meta): return meta['config'].items()",
    ],
)
def test_config_reads_are_not_seen_where_there_are_none(source):
    assert not config_reads.find(source, PACKAGE)


def test_imports_of_torch_are_inside_functions():
    for path in _files():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", "")]
                assert not {"torch", "safetensors"} & {n.split(".")[0] for n in names}, path


def test_commands_are_flags_and_one_call():
    for name in COMMANDS:
        assert len((PACKAGE / name).read_text(encoding="utf-8").splitlines()) <= 60, name


def test_files_stay_short():
    for path in _files():
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path


def test_functions_stay_short():
    functions = {
        (path.relative_to(PACKAGE).as_posix(), node.name): node.end_lineno - node.lineno + 1
        for path in _files()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name for name, length in functions.items() if length > 60} <= LONG
