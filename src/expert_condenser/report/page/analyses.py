"""Figures that `condenser analyze` left in a folder, as a page holds them: the picture, and its numbers as JSON."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expert_condenser.analysis.output import read_analysis
from expert_condenser.errors import AnalysisError

LETTERS = 60_000
"""Of the numbers of one analysis at most; the file has the rest."""


@dataclass(frozen=True)
class Analysis:
    """One analysis on a page."""

    name: str
    command: str
    picture: str
    """The SVG as a `data:` address: an image, whose scripts no browser runs."""
    numbers: str


def read_analyses(folders: Sequence[Path]) -> list[Analysis]:
    """Every analysis of every folder; raises `AnalysisError` where a folder has none, or a picture is missing."""
    found = []
    for folder in folders:
        pictures = sorted(folder.glob("*.svg"))
        inside = [path for path in pictures if path.with_suffix(".json").is_file()]
        if not inside:
            raise AnalysisError(
                f"--analyses names folders that `condenser analyze` wrote, with WHAT.json and WHAT.svg; {folder} has "
                "none"
            )
        found += [_read(path) for path in inside]
    return found


def _read(path: Path) -> Analysis:
    content = read_analysis(path.with_suffix(".json"), path.stem)
    data = base64.b64encode(path.read_bytes()).decode()
    return Analysis(path.stem, str(content.get("command", "")), f"data:image/svg+xml;base64,{data}", _numbers(content))


def _numbers(content: dict[str, Any]) -> str:
    text = json.dumps({name: value for name, value in content.items() if name not in ("command", "versions")})
    return text if len(text) <= LETTERS else f"{text[:LETTERS]} … ({len(text):,} letters in all: see the file)"
