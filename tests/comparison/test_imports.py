"""Comparing runs and making a study's tables needs no model: nothing of torch is loaded for it."""

import subprocess
import sys
from pathlib import Path

import pytest

import expert_condenser

HEAVY = ("torch", "transformers", "trl", "datasets")
SOURCE = Path(expert_condenser.__file__).parent
MODULES = [
    *(f"comparison.{path.stem}" for path in sorted((SOURCE / "comparison").glob("[a-z]*.py"))),
    *(f"study.{name}" for name in ("done", "plan", "plots", "tables")),
]
ALONE = """
import sys, types
package = types.ModuleType("expert_condenser")  # these rooms alone: the package itself may import others
package.__path__ = [{path!r}]
sys.modules["expert_condenser"] = package
for name in {modules}:
    __import__(f"expert_condenser.{{name}}")
print(*(name for name in {heavy} if name in sys.modules))
"""


def loaded(modules):
    code = ALONE.format(path=str(SOURCE), modules=modules, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_they_load_no_torch():
    assert {"comparison.compare", "study.tables"} < set(MODULES)
    assert loaded(MODULES) == []


@pytest.mark.parametrize(("module", "needed"), [("study.cells", "trl"), ("evaluation.prompts", "transformers")])
def test_what_needs_a_model_does(module, needed):
    assert needed in loaded([module])
