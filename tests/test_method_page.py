"""docs/method.md names functions that exist, each in the file that it links to."""

import re
from importlib import import_module
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "method.md"
NAMED = re.findall(r"\[`([\w.]+)`\]\(\.\./src/expert_condenser/([\w/]+)\.py\)", PAGE.read_text())
STEP = PAGE.read_text().partition("## 12.")[2]


def resolved(name, module):
    """What a name like `training.usage.collect` or `usage.collect` is in a module."""
    found = import_module(f"expert_condenser.{module.replace('/', '.')}")
    parts, folders = name.split("."), module.split("/")
    while parts and parts[0] in folders:
        parts.pop(0)
    for part in parts:
        found = getattr(found, part)
    return found


@pytest.mark.parametrize(("name", "module"), sorted(set(NAMED)))
def test_a_name_is_there(name, module):
    if name.endswith(".py") or name == f"methods/{module}":
        return
    assert resolved(name, module) is not None


def test_a_name_that_is_not_there_is_found():
    assert len(NAMED) > 60
    with pytest.raises(AttributeError):
        resolved("training.usage.gather", "training/usage")


def test_every_line_of_the_step_has_its_function():
    lines = {int(number) for number in re.findall(r" (\d+)$", STEP.partition("| line")[0], re.MULTILINE)}
    rows = [row.partition("|")[0] for row in STEP.split("\n| ")[2:]]
    explained = {int(number) for row in rows for number in re.findall(r"\d+", row)}
    assert lines == explained == set(range(1, 11))
