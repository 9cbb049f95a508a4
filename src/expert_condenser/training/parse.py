"""`--config recipe.yaml --name value ...` as a `Recipe`: flags go over the file, and a wrong name is named first."""

import os
from contextlib import suppress
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

from trl import TrlParser

from expert_condenser.clearing import check_apart
from expert_condenser.errors import DataError, TrainingError
from expert_condenser.files import local_path
from expert_condenser.functional.allocation import Allocation
from expert_condenser.names import HINTS, canonical
from expert_condenser.training.launch import ENGINE, PROCESSES
from expert_condenser.training.recipe import Recipe, RunConfig, option_kinds, unknown_option
from expert_condenser.yaml_file import read_yaml

_NEGATED = "no_"
"""`--no_bf16`: a flag that is on by default, off."""


class _Parser(TrlParser):
    """Converts words to the types of the options; it raises where argparse would print and exit."""

    def error(self, message: str) -> NoReturn:
        raise TrainingError(message)


def parse_recipe(words: list[str]) -> Recipe:
    """Raises `TrainingError` on an unknown name, with the nearest right one, and on a value of the wrong kind."""
    path, words = _without_config(words)
    written = {} if path is None else _read(path)
    flags = [canonical(word.partition("=")[0]) for word in words if _is_flag(word)]
    words = [_canonical_flag(word) for word in words]
    method = _method(words, written)
    _check_names([*flags, *written], method)
    parser = _Parser(dataclass_types=list(option_kinds(method).values()), allow_abbrev=False)
    parser.register("type", Allocation, str)  # a method's `Config` reads it, and says what is wrong with it
    parser.set_defaults(**{name: _as_word(value) for name, value in written.items()})
    found, rest = parser.parse_known_args(words)
    if rest:
        raise TrainingError(f"options are --name value, and a recipe is --config FILE; got {' '.join(rest)}")
    asked = {name if name in vars(found) else name.removeprefix(_NEGATED) for name in (*flags, *written)}
    recipe = Recipe.of(**{name: getattr(found, name) for name in asked})
    if path is not None and recipe.run.overwrite and Path(recipe.trainer.output_dir).is_dir():
        check_apart(Path(recipe.trainer.output_dir), "config", path)
    return recipe


def written_options(words: list[str]) -> dict[str, Any]:
    """All that the file of `--config` says, as it is written; nothing where there is none, or it cannot be read."""
    with suppress(TrainingError, DataError):
        path, _ = _without_config(words)
        content = {} if path is None else read_yaml(path)
        return content if isinstance(content, dict) else {}
    return {}


def _without_config(words: list[str]) -> tuple[Path | None, list[str]]:
    """The recipe's file, and the other words."""
    for position, word in enumerate(words):
        flag, _, value = word.partition("=")
        if flag == "--config":
            used = 1 if value else 2
            path = local_path(value or "".join(words[position + 1 : position + 2]))
            if not path.is_file():
                raise TrainingError(f"--config takes a YAML file; got {path}")
            return path, words[:position] + words[position + used :]
    return None, words


def _read(path: Path) -> dict[str, Any]:
    """The options of a YAML file by their names of today; `env` sets environment variables, as in TRL."""
    try:
        content = read_yaml(path)
    except DataError as error:
        raise TrainingError(f"a recipe is a YAML file; {error}") from error
    if not isinstance(content, dict):
        raise TrainingError(f"a recipe is a mapping, 'name: value' a line; {path} holds a {type(content).__name__}")
    environment = content.pop("env", {})
    if not isinstance(environment, dict):
        raise TrainingError(f"{path}: env is a mapping of environment variables; got {environment!r}")
    _set_environment(path, {str(name): str(value) for name, value in environment.items()})
    found: dict[str, Any] = {}
    for name in (ENGINE, PROCESSES):  # of the process that starts the others: see `launch`
        content.pop(name, None)
    for key, value in content.items():
        name = canonical(str(key))
        if name in found:
            raise TrainingError(f"{path}: {name} is set twice, once as {key}; leave one out")
        found[name] = value
    return found


def _set_environment(path: Path, variables: dict[str, str]) -> None:
    try:
        os.environ.update(variables)
    except (OSError, ValueError) as error:  # of an empty name, `=` in a name, a zero byte, half of a surrogate pair
        raise TrainingError(f"{path}: env is a mapping of environment variables; {error}") from error


def _is_flag(word: str) -> bool:
    return word.startswith("--") and len(word) > 2


def _canonical_flag(word: str) -> str:
    if not _is_flag(word):
        return word
    flag, equals, value = word.partition("=")
    return f"--{canonical(flag)}{equals}{value}"


def _method(words: list[str], written: dict[str, Any]) -> str:
    """The method, looked up first: it decides which options there are."""
    named = [word.partition("=")[2] for word in words if word.startswith("--method=")]
    named += [after for word, after in pairwise(words) if word == "--method"]
    return RunConfig(method=str(named[-1] if named else written.get("method", RunConfig.method))).method


def _check_names(names: list[str], method: str) -> None:
    known = {f.name for kind in option_kinds(method).values() for f in fields(kind)}
    for name in names:
        if name in known or name.removeprefix(_NEGATED) in known:
            continue
        if name in HINTS:
            raise TrainingError(f"{name} is not an option here: {HINTS[name]}")
        raise TrainingError(unknown_option(name, method))


def _as_word(value: Any) -> Any:
    """A number or truth value as the command line would have it, so that both are converted and checked alike."""
    return str(value) if isinstance(value, bool | int | float) else value
