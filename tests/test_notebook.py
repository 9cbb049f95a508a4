"""The notebook in examples/: it runs from top to bottom, and is committed without what it prints."""

import ast
import json
import re
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "examples" / "look_at_your_experts.ipynb"
CELLS = json.loads(NOTEBOOK.read_text())["cells"]
CODE = {cell["id"]: "".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"}
MOST_LINES = 16


def test_it_is_committed_without_outputs():
    """A run leaves them in: clear all outputs before a commit."""
    assert [cell["id"] for cell in CELLS if cell.get("outputs") or cell.get("execution_count")] == []
    assert len(CODE) >= 8


@pytest.mark.parametrize("name", CODE)
def test_cells_are_short_plain_python(name):
    assert len(CODE[name].splitlines()) <= MOST_LINES
    ast.parse(CODE[name])
    assert not re.search(r"^\s*[%!]", CODE[name], re.MULTILINE), "no magic: it is Python"
    assert not re.search(r"\b_[a-z]\w*", CODE[name]), "nothing private"


def test_links_lead_to_files():
    text = "".join("".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "markdown")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links
    assert [link for link in links if not (NOTEBOOK.parent / link).exists()] == []


@pytest.mark.slow  # 25 s of one core
def test_it_runs_and_the_tuned_model_answers_better(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="the notebook is run by nbclient, which is in the extra dev")
    nbclient = pytest.importorskip("nbclient", reason="the notebook is run by nbclient, which is in the extra dev")
    pytest.importorskip("ipykernel", reason="the notebook runs in a kernel of ipykernel, which is in the extra dev")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    notebook = nbformat.read(NOTEBOOK, 4)
    place = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=place).execute()
    said = {cell.id: _text(cell) for cell in notebook.cells if cell.cell_type == "code"}
    assert "layer 4: Gini index" in said["usage"]
    assert said["routing"].count("\n") >= 24
    assert "condenser | condense | step 40 of 40" in " ".join(said["heat"].split()), "however wide its folder's name is"
    assert all(f"{layer}: [" in said["after"] for layer in range(5)), "two condensers in every layer"
    before, after = map(float, re.search(r"nll per token: ([\d.]+) before, ([\d.]+) after", said["quality"]).groups())
    assert after < before - 1
    assert all(output.output_type != "error" for cell in notebook.cells for output in cell.get("outputs", []))


def _text(cell):
    return "".join(output.get("text", "") for output in cell.outputs if output.get("name") == "stdout")
