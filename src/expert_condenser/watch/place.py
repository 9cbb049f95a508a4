"""What `condenser watch` takes: the folder of a run or of several, there or not yet; and where a page may go."""

from pathlib import Path

from expert_condenser.clearing import MARKER
from expert_condenser.errors import AnalysisError
from expert_condenser.ownership import LOCK
from expert_condenser.training.history import USAGE_HISTORY
from expert_condenser.training.record import METRICS, RUN
from expert_condenser.watch.page import GENERATOR
from expert_condenser.watch.several import STUDY, run_folders


def check_place(folder: Path) -> None:
    """Raise `AnalysisError` where a folder is of something else; one that is empty or not there yet is waited for."""
    if folder.exists() and not folder.is_dir():
        raise AnalysisError(f"a run is watched by its folder, and {folder} is a file; name the output_dir of the run")
    if not folder.exists() or not any(folder.iterdir()) or _is_run(folder) or is_group(folder):
        return
    if (folder / USAGE_HISTORY).exists() and (folder.parent / RUN).exists():
        raise AnalysisError(f"{folder} is a phase of a run; name the run, {folder.parent}")
    raise AnalysisError(
        f"a run's folder has {RUN}, and {folder} holds something else; name the output_dir of `condenser train`, of a "
        "study or of a demo"
    )


def _is_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in (RUN, METRICS, LOCK, MARKER))


def is_group(folder: Path) -> bool:
    """Whether a folder holds several runs and is none itself."""
    if not folder.is_dir() or (folder / RUN).exists():
        return False
    return (folder / STUDY).exists() or next(run_folders(folder), None) is not None


def check_page(path: Path) -> None:
    """Raise `AnalysisError` where a page cannot go: into a folder that is not there, or over somebody's own file."""
    if path.is_dir() or not path.parent.is_dir():
        raise AnalysisError(f"--html is a file in a folder that exists; got {path}")
    if path.exists() and GENERATOR not in path.read_bytes()[:2000].decode("utf-8", errors="replace"):
        raise AnalysisError(f"--html writes over a page of `condenser watch` alone, and {path} is none; name another")
