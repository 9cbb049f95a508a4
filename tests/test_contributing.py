"""What CONTRIBUTING.md says is so: its method is run as it stands there, and its tree is that of the files."""

import re
from pathlib import Path

import pytest
import torch

from expert_condenser import METHODS
from expert_condenser.methods import Method
from expert_condenser.testing import tiny_model
from tests.finetune import finetune
from tests.tree import tree, written

GUIDE = Path(__file__).parents[1] / "CONTRIBUTING.md"
STEPS = 2


@pytest.fixture(scope="module")
def example():
    (block,) = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(), re.DOTALL | re.MULTILINE)
    names = {"__name__": "contributed"}
    exec(compile(block, str(GUIDE), "exec"), names)
    (found,) = [
        v for v in names.values() if isinstance(v, type) and issubclass(v, Method) and v.__module__ == "contributed"
    ]
    return found


def changed(outcome):
    """Names of the parameters that training moved, and of those that it left as they were."""
    fresh = dict(tiny_model().named_parameters())
    assert outcome.weights.keys() == fresh.keys()
    moved = {name for name, value in outcome.weights.items() if not torch.equal(value, fresh[name])}
    return moved, fresh.keys() - moved


def test_the_example_is_a_method_with_a_name_of_its_own(example):
    assert issubclass(example, Method)
    assert example.name not in METHODS
    assert example.summary


def test_the_example_trains_the_experts_and_nothing_else(example, monkeypatch, tmp_path):
    monkeypatch.setitem(METHODS, example.name, example)
    experts = {name for name, _ in tiny_model().named_parameters() if ".experts." in name}
    outcome = finetune(tmp_path / "example", example.name, max_steps=STEPS)
    moved, still = changed(outcome)
    assert moved == experts
    assert still
    assert len(outcome.usage) == STEPS
    assert all(usage.sum() > 0 for usage in outcome.usage)
    control, _ = changed(finetune(tmp_path / "control", "sft", max_steps=STEPS))
    assert control == moved | still


def test_the_tree_is_that_of_the_files_and_their_docstrings():
    """`make tree` writes it again."""
    assert written() == tree()


def test_every_link_leads_somewhere():
    pages = [GUIDE, GUIDE.parent / "README.md", *sorted((GUIDE.parent / "docs").glob("*.md"))]
    assert len(pages) > 8
    for page in pages:
        targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL))
        missing = [t for t in targets if "://" not in t and "(" not in t and not (page.parent / t).exists()]
        assert missing == [], page.name
    assert (GUIDE.parent / "README.md").stat().st_size < 8_000
