"""One `condenser analyze`: its models, checked before any is loaded, its rows, and what it leaves."""

import argparse
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor

from expert_condenser.analysis.output import write_analysis
from expert_condenser.analysis.rows import read_rows
from expert_condenser.analysis.subjects import Subject, check_together, device_of, find_subject, load
from expert_condenser.checkpoint.load import load_tokenizer
from expert_condenser.cli.console import progress, quiet_libraries, say_result
from expert_condenser.data.tokens import Tokens
from expert_condenser.errors import AnalysisError

Row = Mapping[str, str | float | int]
ENDINGS = ("json", "safetensors", "svg", "png")


class Session:
    """What every analysis needs."""

    def __init__(self, name: str, options: argparse.Namespace, command: str) -> None:
        quiet_libraries()
        self.name, self.options, self.command = name, options, command
        check_room(options.output_dir)
        _check_files(options.output_dir, name)
        device_of(getattr(options, "device", None))

    @cached_property
    def subjects(self) -> list[Subject]:
        """The base, then its tuned versions; raises `AnalysisError` where they do not belong together."""
        base, *tuned = (find_subject(text) for text in (self.options.model, *self.options.tuned))
        check_together(base, tuned, any_base=self.options.any_base)
        return [base, *tuned]

    @cached_property
    def tokenizer(self) -> Any:
        """That of the base, which renders the rows for all."""
        return load_tokenizer(self.subjects[0].path)

    @cached_property
    def rows(self) -> list[Tokens]:
        """The rows that models are looked at with."""
        return self.rows_of(self.options.data, self.options.split)

    def rows_of(self, data: str, split: str) -> list[Tokens]:
        """Those of one data set."""
        options, path = self.options, self.subjects[0].path
        return read_rows(data, path, self.tokenizer, split=split, limit=options.limit, max_length=options.max_length)

    def models(self, label: str, each: int, subjects: Sequence[Subject] | None = None) -> Iterator[tuple[Any, ...]]:
        """Every model once: `(subject, model, advance)`, with a bar of `each` steps per model; read the rows before."""
        asked = self.subjects if subjects is None else subjects
        with progress(label, each * len(asked)) as advance:
            for subject in asked:
                yield subject, self.load(subject), advance

    def load(self, subject: Subject) -> Any:
        """One model."""
        return load(subject, self.options.dtype, self.options.device)

    def leave(
        self,
        content: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        draw: Callable[[Path], None],
        table: Sequence[Row],
    ) -> None:
        """Write the files and figures, and print the table."""
        folder: Path = self.options.output_dir
        asked = {key: value for key, value in vars(self.options).items() if key not in ("output_dir", "verbosity")}
        head = {"options": {key: _text(value) for key, value in asked.items()}}
        path = write_analysis(folder, self.name, {**head, **content}, tensors, self.command)
        draw(folder / self.name)
        Console().print(_table(self.name, table))
        say_result(path)


def check_room(folder: Path) -> None:
    """Raise `AnalysisError` where no folder can be made, or none be written to, before anything is computed.

    It is tried: what the mode of a folder says is not all (`/proc`, a long name, a full or read-only disk).
    """
    made: list[Path] = []
    try:
        made = [place for place in (folder, *folder.parents) if not place.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder) as file:
            file.write(b"room")
    except OSError as error:
        there = next((place for place in (folder, *folder.parents) if os.path.lexists(place)), folder)
        what = f"{there} is a file" if there.is_file() else f"{error}"
        raise AnalysisError(f"--output_dir is a folder, made where it is not there; {what}; name another") from error
    finally:
        for place in made:
            with suppress(OSError):
                place.rmdir()


def _check_files(folder: Path, name: str) -> None:
    for ending in ENDINGS:
        if (path := folder / f"{name}.{ending}").is_dir():
            raise AnalysisError(f"{path} is a file of the analysis, and a folder is there; name another --output_dir")


def _text(value: Any) -> Any:
    if isinstance(value, list):
        return [_text(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _table(title: str, rows: Sequence[Row]) -> Table:
    # Without lines between columns: `prune` has nine, and should fit into a terminal of 80.
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for place, name in enumerate(rows[0] if rows else ()):
        is_text = isinstance(rows[0][name], str)
        table.add_column(name, justify="left" if is_text else "right", overflow="fold", no_wrap=place == 0)
    for row in rows:
        table.add_row(*(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row.values()))
    return table
