"""The flag --config, and --config.KEY=VALUE for single keys of it.

ml_collections parses the values; this module finds the recipe, so that its name is enough, and a
work directory that holds a run needs none.
"""

import pathlib
import re
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from iddpm_jax.config import defaults, recipes
from iddpm_jax.config.check import unknown_key_message
from iddpm_jax.config.record import flat_config
from iddpm_jax.errors import UsageError

_RECIPE = re.compile(r"--?config(=(?P<text>.*))?", re.DOTALL)
_KEY = re.compile(r"--?(?P<no>no)?config\.(?P<key>[^=]+)(=(?P<value>.*))?", re.DOTALL)
_POWER = re.compile(r"\d+(\.\d*)?[eE]\+?\d+")

_given: str | None = None
_recipe: dict[str, Any] = {}


def take(argv: list[str], continues: bool) -> list[str]:
    """Takes `--config` out of the command line, and makes flags of the keys of what it names.

    Without it the run in `--workdir` is taken up again, as its `config.json` says, by a command
    that `continues`; else there are the defaults.

    Raises:
      UsageError: there is no such recipe or key, or nothing says what to do.
    """
    global _given, _recipe
    words, texts = _split(argv)
    if len(texts) > 1:
        raise UsageError(f"--config is given {len(texts)} times: give one recipe")
    _given = texts[0] if texts else None
    if _given is not None:
        config = recipes.load_recipe(_given)
    elif continues and (recorded := _recorded(words)):
        config = recorded
    elif continues and not any(word.lstrip("-").startswith("config.data.name") for word in words):
        raise UsageError(
            "--config is missing: name a recipe, as in --config=digits, or a --workdir whose run "
            "is to be continued"
        )
    else:
        config = defaults.get_config()
    _recipe = flat_config(config)
    words = [_readable(word, config) for word in words]
    config_flags.DEFINE_config_dict("config", config, "The configuration.", sys_argv=words)
    return words


def value() -> ml_collections.ConfigDict:
    """The configuration, overrides included."""
    return flags.FLAGS.config


def given() -> str | None:
    """What `--config` said; None where it was not given."""
    return _given


def recipe_value(key: str) -> Any:
    """What the recipe has for a dotted key, without overrides."""
    return _recipe[key]


def is_recorded() -> bool:
    """Whether the configuration is what a run recorded, and no recipe of the user's own."""
    return _given is None or recipes.is_record(_given)


def overrides() -> dict[str, Any]:
    """The values that were given for single keys, by dotted key."""
    return dict(config_flags.get_override_values(flags.FLAGS["config"]))


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    """The command line without `--config`, and what was said there."""
    words, texts, rest = [], [], iter(argv)
    for word in rest:
        match = _RECIPE.fullmatch(word)
        if match is None:
            words.append(word)
        else:
            texts.append(next(rest, "") if match[1] is None else match["text"])
            if not texts[-1] or texts[-1].startswith("--"):
                raise UsageError("--config is empty: name a recipe, as in --config=digits")
    return words, texts


def _recorded(words: list[str]) -> ml_collections.ConfigDict | None:
    """The configuration of the run in `--workdir`, if there is one."""
    for word in words:
        match = re.fullmatch(r"--?workdir=(.+)", word)
        workdir = pathlib.Path(match[1]).expanduser() if match else None
        if workdir is not None and (workdir / "config.json").exists():
            return recipes.load_recorded(workdir)
    return None


def _readable(word: str, config: ml_collections.ConfigDict) -> str:
    """A word of the command line as ml_collections reads it.

    `1e3` is a whole number where one is meant, and `none` is an empty tuple.

    Raises:
      UsageError: it names a key that does not exist.
    """
    match = _KEY.fullmatch(word)
    if match is None:
        return word
    known = flat_config(config)
    if match["key"] not in known:
        raise UsageError(unknown_key_message(match["key"], known))
    text, before = match["value"], known[match["key"]]
    if text is None:
        return word
    if isinstance(before, tuple) and text.strip().lower() == "none":
        text = "()"
    elif _is_whole(match["key"], before) and _POWER.fullmatch(text) and float(text).is_integer():
        text = str(int(float(text)))
    return f"--config.{match['key']}={text}"


def _is_whole(key: str, before: Any) -> bool:
    return type(before) is int or key == "train.num_steps"
