"""How to make the runs again: the whole recipe of each, the versions that computed it, and the command."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from expert_condenser.report.page.runs import RunFiles
from expert_condenser.report.page.tables import Table


def recipe_of(run: RunFiles) -> dict[str, Any]:
    """The recipe as YAML that `condenser train` reads, and where it ran; `null` is the default of every option."""
    config = run.record.config
    # transformers writes this in place of every token, set or not, as one of them may be a password.
    masked = [name for name, value in config.items() if value == f"<{name.upper()}>"]
    options = {name: value for name, value in config.items() if value is not None and name not in masked}
    note = f"# Whether these were set is not recorded: {', '.join(masked)}\n" if masked else ""
    return {
        "name": run.label,
        "folder": str(run.folder),
        "text": note + yaml.safe_dump(options, sort_keys=True, allow_unicode=True),
        "command": "condenser train --config recipe.yaml",
    }


def reproduce_study(root: Path) -> dict[str, Any]:
    """The study's file and the command that runs it."""
    command = shlex.join(["condenser", "study", "study.yaml", "--output_dir", root.resolve().name])
    return {"name": "study", "folder": str(root), "text": (root / "study.yaml").read_text(), "command": command}


def versions_table(runs: Sequence[RunFiles]) -> Table:
    """A column for every run, a row for every package, the commit, the rows and the hardware-side choices."""
    packages = list(dict.fromkeys(name for run in runs for name in run.record.versions))
    rows = [[name, *(run.record.versions.get(name, "") for run in runs)] for name in packages]
    facts: dict[str, Callable[[RunFiles], Any]] = {
        "git commit": lambda run: _short(run.record.git_commit),
        "digest of the rows": lambda run: (run.record.data or {}).get("digest"),
        "engine": lambda run: run.record.engine,
        "processes": lambda run: run.record.processes,
        "steps": lambda run: run.record.steps,
        "tokens": lambda run: run.record.tokens,
        "finished": lambda run: "yes" if run.record.finished else "no",
    }
    rows += [[name, *(_text(read(run)) for run in runs)] for name, read in facts.items()]
    return Table("Versions and data", ["", *(run.label for run in runs)], rows)


def options_table(runs: Sequence[RunFiles]) -> Table | None:
    """The options in which the runs differ; None where they differ in none."""
    names = sorted({name for run in runs for name in run.record.config} - {"output_dir"})
    rows = [[name, *(_text(run.record.config.get(name)) for run in runs)] for name in names]
    differing = [row for row in rows if len(set(row[1:])) > 1]
    return Table("Options that differ", ["option", *(run.label for run in runs)], differing) if differing else None


def _short(commit: str | None) -> str | None:
    """Twelve digits name a commit; what follows them says that files were changed."""
    return None if commit is None else "-".join([commit.partition("-")[0][:12], *commit.split("-")[1:]])


def _text(value: Any) -> str:
    return "" if value is None else str(value)
