"""Comparing runs and making a study's tables needs no model: nothing of torch is loaded for it."""

import subprocess
import sys
from pathlib import Path

import expert_condenser

HEAVY = ("torch", "transformers", "trl", "datasets")
SOURCE = Path(expert_condenser.__file__).parent
MODULES = [
    *(f"comparison.{path.stem}" for path in sorted((SOURCE / "comparison").glob("[a-z]*.py"))),
    *(f"study.{name}" for name in ("done", "plan", "plots", "tables")),
]


def loaded(modules):
    code = (
        f"import sys\nfor name in {modules}: __import__('expert_condenser.' + name)\n"
        f"print(*(name for name in {HEAVY} if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_they_load_no_torch():
    assert {"comparison.compare", "study.tables"} < set(MODULES)
    assert loaded(MODULES) == []


def test_asking_a_model_loads_it():
    assert "torch" in loaded(["evaluation.prompts", "evaluation.likelihood"])
