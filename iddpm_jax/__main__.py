"""`iddpm NAME …` and `python -m iddpm_jax NAME …` are `python -m iddpm_jax.NAME …`."""

import ast
import difflib
import importlib
import pathlib
import sys

# In the order in which people meet them.
COMMANDS = (
    "train",
    "sample",
    "super_resolve",
    "nll",
    "dp_respacing",
    "prepare_data",
    "import_torch",
    "export_torch",
    "check_workdir",
)


def main() -> None:
    """Runs the command that the first argument names."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "-help", "--help", "help"):
        print(_help())
        sys.exit(0 if len(sys.argv) > 1 else 2)
    name = sys.argv[1].replace("-", "_")
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"is {close[0]} meant?" if close else f"choose one of {', '.join(COMMANDS)}"
        print(f"error: there is no command {sys.argv[1]!r}: {hint}", file=sys.stderr)
        sys.exit(2)
    sys.argv = [f"iddpm {name}", *sys.argv[2:]]
    importlib.import_module(f"iddpm_jax.{name}").run()


def _help() -> str:
    lines = [f"  {name:14} {_first_line(name)}" for name in COMMANDS]
    return "\n".join(
        ["iddpm NAME …, and for each: iddpm NAME --help", "", *lines, "", "Begin with:", _BEGIN]
    )


_BEGIN = "  iddpm train --config=digits --workdir=runs/digits"


def _first_line(name: str) -> str:
    """What a command says of itself; it is not imported for that."""
    source = pathlib.Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").splitlines()[0]


if __name__ == "__main__":
    main()
