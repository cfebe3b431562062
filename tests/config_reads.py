"""Where a program reads a ConfigDict, found in its syntax tree and not in what it imports.

A configuration is what a function of config/ gives that is annotated to return a ConfigDict,
whatever it is called afterwards; what is called `config`; and what has an attribute that only a
configuration has, such as `.train.lr`. It may be handed on to a function, and nothing else.
"""

import ast
import functools
import pathlib
from collections.abc import Iterator

from iddpm_jax.config import defaults
from iddpm_jax.models import UNet

# Of other libraries, and of modules: they are called config, too.
_OTHERS = {"jax", "iddpm_jax"}
# Functions that look into what they are given.
_LOOK_INTO = {"dict", "getattr", "hasattr", "iter", "list", "setattr", "sorted", "tuple", "vars"}


def find(source: str, package: pathlib.Path) -> list[str]:
    """What reads a ConfigDict in the text of a program, as `config.train in line 12`."""
    reads = _reads(ast.parse(source), _makers(package))
    return sorted({f"{ast.unparse(node)} in line {node.lineno}" for node in reads})


class _Configs:
    """Tells which expressions of a program are configurations."""

    def __init__(self, tree: ast.Module, makers: frozenset[str]):
        self._makers = makers
        self._imported = _imported(tree)
        self._names = {"config"} - set(self._imported)
        assigned = [n for n in ast.walk(tree) if isinstance(n, _ASSIGNMENTS) and n.value]
        before: set[str] = set()
        while before != self._names:  # An alias may have an alias.
            before = set(self._names)
            for node in assigned:
                if self.has(node.value):
                    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                    self._names |= {t.id for t in targets if isinstance(t, ast.Name)}

    def has(self, node: ast.AST) -> bool:
        if isinstance(node, ast.Name):
            return node.id in self._names
        if isinstance(node, ast.Attribute):
            return node.attr == "config" and ast.unparse(node.value) not in _OTHERS
        if isinstance(node, ast.NamedExpr):
            return self.has(node.value)
        if isinstance(node, ast.IfExp):
            return self.has(node.body) or self.has(node.orelse)
        if isinstance(node, ast.BoolOp):
            return any(map(self.has, node.values))
        if isinstance(node, ast.Call):
            first, _, rest = ast.unparse(node.func).partition(".")
            return ".".join(filter(None, (self._imported.get(first, first), rest))) in self._makers
        return False


_ASSIGNMENTS = (ast.Assign, ast.AnnAssign, ast.NamedExpr)


def _reads(tree: ast.Module, makers: frozenset[str]) -> Iterator[ast.AST]:
    configs = _Configs(tree, makers)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Subscript | ast.Starred):
            if configs.has(node.value) or _is_key_of_a_section(node):
                yield node
        elif isinstance(node, ast.For | ast.comprehension):
            yield from filter(configs.has, [node.iter])
        elif isinstance(node, ast.Compare):
            yield from filter(configs.has, node.comparators)  # `key in config`
        elif isinstance(node, ast.Call):
            looked_into = node.args if ast.unparse(node.func) in _LOOK_INTO else []
            unpacked = [keyword.value for keyword in node.keywords if keyword.arg is None]
            yield from filter(configs.has, looked_into + unpacked)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            if "ml_collections" in ast.unparse(node):
                yield node
        elif "ConfigDict" in ast.unparse(annotation := _annotation(node)):
            yield annotation


def _annotation(node: ast.AST) -> ast.AST:
    found = getattr(node, "annotation", None) or getattr(node, "returns", None)
    return found if found is not None else ast.Constant(0)


def _is_key_of_a_section(node: ast.AST) -> bool:
    """Whether it is `….train.lr`, whatever stands before."""
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Attribute)
        and (node.value.attr, node.attr) in _keys()
    )


@functools.cache
def _keys() -> frozenset[tuple[str, str]]:
    """(section, key); without those of a network, which is called model, too."""
    config = defaults.get_config().to_dict()
    pairs = {(section, key) for section, values in config.items() for key in values}
    return frozenset(pairs - {("model", name) for name in UNet.__dataclass_fields__})


def _imported(tree: ast.Module) -> dict[str, str]:
    """Names that imports bind, and the dotted names that they stand for."""
    bound = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            bound |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
        elif isinstance(node, ast.Import):
            bound |= {a.asname: a.name for a in node.names if a.asname}
    return bound


@functools.cache
def _makers(package: pathlib.Path) -> frozenset[str]:
    """Dotted names of the functions that return a ConfigDict, and of recipes' `get_config`."""
    makers = set()
    files = [path for folder in ("config", "recipes") for path in package.glob(f"{folder}/*.py")]
    for path in (*files, package / "cli" / "config_flag.py"):
        module = ".".join((package.name, *path.relative_to(package).with_suffix("").parts))
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef):
                returned = ast.unparse(node.returns) if node.returns else ""
                if "ConfigDict" in returned or node.name == "get_config":
                    makers.add(f"{module}.{node.name}")
    return frozenset(makers)
