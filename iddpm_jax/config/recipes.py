"""Finding and running a recipe: a file with `get_config()`, or the record of a run."""

import importlib.util
import pathlib
import pkgutil
import traceback

import ml_collections

from iddpm_jax import recipes
from iddpm_jax.config.record import config_from_dict
from iddpm_jax.errors import UsageError
from iddpm_jax.files.paths import local_path
from iddpm_jax.files.workdir import read_config


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(recipes.__path__))


def packaged_recipe(name: str) -> ml_collections.ConfigDict:
    """The configuration of a recipe that comes with the package."""
    return _run(pathlib.Path(recipes.__path__[0]) / f"{name}.py")


def load_recipe(text: str) -> ml_collections.ConfigDict:
    """The configuration that `--config` names.

    Args:
      text: a recipe's name such as `digits`, the path of a Python file with `get_config()`, or of
        a `config.json` that a run left, or of the work directory that holds one.

    Raises:
      UsageError: there is no such recipe, or it fails; the message says where in its file.
    """
    path = local_path(text, "--config")
    if is_record(text):
        return load_recorded(path) if path.is_dir() else load_recorded(path.parent, path.name)
    if path.is_file():
        return _run(path)
    # `configs/digits.py` is meant wherever the command is started.
    own = pathlib.PurePath(text)
    if own.stem in recipe_names() and own.parent.name in ("", "configs"):
        return packaged_recipe(own.stem)
    raise UsageError(
        f"--config={text}: there is no such file, and no such recipe. The recipes are "
        f"{', '.join(recipe_names())}"
    )


def is_record(text: str) -> bool:
    """Whether `text` names what a run left, which may come from anywhere, and not a program."""
    path = local_path(text, "--config")
    return path.is_dir() or path.suffix == ".json"


def load_recorded(workdir: pathlib.Path, name: str = "config.json") -> ml_collections.ConfigDict:
    """The configuration that a work directory recorded; UsageError if it has none."""
    if not (workdir / name).exists():
        raise UsageError(f"{workdir} is not a work directory: it has no {name}")
    return config_from_dict(read_config(workdir, name))


def _run(path: pathlib.Path) -> ml_collections.ConfigDict:
    """What `get_config()` of a Python file returns."""
    spec = importlib.util.spec_from_file_location(f"recipe_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"--config={path} is no Python file: its name should end in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except Exception as error:  # A recipe is a program, and may fail in any way.
        raise UsageError(f"--config={path} fails{_where(path, error)}: {_said(error)}") from error
    if not isinstance(config, ml_collections.ConfigDict):
        raise UsageError(
            f"--config={path}: get_config() returned a {type(config).__name__}, not a ConfigDict; "
            "start from iddpm_jax.config.defaults.get_config()"
        )
    return config


def _where(path: pathlib.Path, error: Exception) -> str:
    """The line of the recipe in which an error arose."""
    if isinstance(error, SyntaxError) and error.lineno:
        return f" in line {error.lineno}"
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    return f" in line {lines[-1]}" if lines else ""


def _said(error: Exception) -> str:
    """The kind of an error and what it says, in one line."""
    # A ConfigDict's KeyError prints the whole configuration after its first line.
    text = " ".join((str(error).splitlines() or [""])[0].split())[:300]
    return f"{type(error).__name__}: {text}"
