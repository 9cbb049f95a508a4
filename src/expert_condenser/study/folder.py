"""The folder of a study: one study in it, one process that runs it, and no input in what its runs clear."""

from collections.abc import Sequence
from pathlib import Path

from expert_condenser.clearing import Kind
from expert_condenser.errors import EvaluationError, FolderError
from expert_condenser.files import write_text
from expert_condenser.study.plan import Cell, Study
from expert_condenser.yaml_file import read_yaml

STUDY_KIND = Kind("study")
"""Nothing clears a whole study."""


def check_inputs(study: Study, cells: Sequence[Cell], root: Path) -> None:
    """Raise `FolderError` where a run would clear what the study reads: an input in its folder, or that folder itself.

    The base's own results go to `base/`, where a base model may lie in a folder of its own.
    """
    named = {"base": study.base, "recipe": study.recipe, "evaluate.data": study.evaluate.data}
    inputs = {name: Path(value) for name, value in named.items() if value is not None and Path(value).exists()}
    for name, path in inputs.items():
        for folder in (root / cell.folder for cell in cells):
            inside = path.resolve().is_relative_to(folder.resolve()) and folder != root / study.base_cell.folder
            if inside or path.resolve() == folder.resolve():
                raise FolderError(
                    f"a study deletes what its runs do not keep, and {name}, {path}, lies in {folder}; move it out of "
                    "there, or name another output_dir"
                )


def claim(path: Path, root: Path) -> None:
    """Keep the study file beside the runs, and refuse a folder that holds another study.

    Paths in the file are relative to it, so a file with such paths stays where its runs are.
    """
    kept = root / "study.yaml"
    study = read_yaml(path)
    relative = [key for key in ("recipe", "tuned_by", "beside") if study.get(key)]
    relative += ["base"] if str(study["base"]).startswith(".") else []
    if relative and kept.resolve() != path.resolve():
        raise EvaluationError(
            f"{', '.join(relative)} of a study are relative to its file, which tables read again beside the runs; move "
            f"{path} to {kept}"
        )
    if kept.exists() and kept.resolve() != path.resolve() and kept.read_text() != path.read_text():
        raise EvaluationError(f"{root} holds another study ({kept} differs from {path}); name another --output_dir")
    if kept.resolve() != path.resolve():
        write_text(kept, path.read_text())
