"""Of which kind every value of a study file is, so that what is checked next can take it as such."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from expert_condenser.errors import EvaluationError

_TEXTS = ("base", "recipe", "tuned_by", "baseline")
_MAPPINGS = ("arms", "grid", "options", "tuned_as", "beside", "groups", "contrasts", "executor_options")
_MEANT = {"evaluate.tasks": " of tasks to how many items are asked, {gsm8k: 200}"}
_LISTS = ("learn", "known", "allow")


def check_kinds(content: Mapping[str, Any], evaluation: Mapping[str, Any], path: Path) -> None:
    """Raise `EvaluationError` where a name is no text, a list or mapping is none, or a number of items is none."""
    texts = {key: content.get(key) for key in _TEXTS}
    texts |= {f"evaluate.{key}": evaluation.get(key) for key in ("split", "data")}
    for key, value in texts.items():
        if value is not None and not _is_text(value):
            raise EvaluationError(f"{path}: {key} is a text; got {value!r}")
    mappings = {key: content[key] for key in _MAPPINGS if key in content}
    mappings["evaluate.tasks"] = evaluation["tasks"]
    for key, value in mappings.items():
        if not isinstance(value, dict) or not _are_texts(value):
            raise EvaluationError(f"{path}: {key} is a mapping from names{_MEANT.get(key, '')}; got {value!r}")
    lists = [value for key in ("beside", "groups") for value in mappings.get(key, {}).values()]
    lists += [content.get(key) or [] for key in _LISTS]
    if bad := [value for value in lists if not isinstance(value, list) or not _are_texts(value)]:
        raise EvaluationError(f"{path}: beside, groups, learn, known and allow have lists of names; got {bad[0]!r}")
    for key in ("batch_size", "max_new_tokens"):
        value = evaluation.get(key)
        if value is not None and (type(value) is not int or value < 1):
            raise EvaluationError(f"{path}: evaluate.{key} is a whole number, 1 or more; got {value!r}")


def _are_texts(values: Iterable[Any]) -> bool:
    return all(map(_is_text, values))


def _is_text(value: Any) -> bool:
    """Whether a value can be a name or a path: no system takes a path with a zero byte."""
    return isinstance(value, str) and "\0" not in value
