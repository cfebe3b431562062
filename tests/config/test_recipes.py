import json

import pytest

from iddpm_jax.config.recipes import load_recipe, recipe_names
from iddpm_jax.errors import UsageError
from iddpm_jax.recipes import digits
from tests.compiler import ROOT


def test_recipe_names_are_the_files_of_configs():
    files = {path.stem for path in (ROOT / "configs").glob("*.py")} - {"__init__"}
    assert set(recipe_names()) == files


@pytest.mark.parametrize("text", ["digits", "digits.py", "configs/digits.py"])
def test_load_recipe_finds_one_by_its_name_anywhere(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_recipe(text) == digits.get_config()


def test_load_recipe_takes_what_a_run_recorded(tmp_path):
    config = digits.get_config()
    config.train.lr = 0.125
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    assert load_recipe(str(tmp_path / "config.json")) == config
    assert load_recipe(str(tmp_path)) == config
    with pytest.raises(UsageError, match="is not a work directory: it has no config"):
        load_recipe(str(tmp_path.parent))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1\ndef get_config():\n    return 1 / 0\n", "fails in line 3: ZeroDivisionError"),
        ("import nonexistent_module\n", "fails in line 1: ModuleNotFoundError"),
        ("def get_config(:\n", "fails in line 1: SyntaxError"),
        ("", "fails: AttributeError"),
        ("def get_config():\n    return {}\n", "returned a dict, not a ConfigDict"),
        (
            "from iddpm_jax.config import defaults\n\n\ndef get_config():\n"
            "    config = defaults.get_config()\n    config.train.nope = 1\n    return config\n",
            "fails in line 6: AttributeError",
        ),
    ],
)
def test_load_recipe_says_where_a_recipe_fails(source, message, tmp_path):
    (tmp_path / "mine.py").write_text(source)
    with pytest.raises(UsageError, match=message):
        load_recipe(str(tmp_path / "mine.py"))


def test_load_recipe_refuses_other_files(tmp_path):
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(UsageError, match="is no Python file"):
        load_recipe(str(tmp_path / "mine.txt"))
