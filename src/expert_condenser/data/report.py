"""What was read, what is trained, and what is not: the facts about a run's data, with nothing of its weights."""

from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from expert_condenser.data.sources import DataFile


class RefusedRow(NamedTuple):
    """A row that cannot be trained: where it stands (a line of its file, or a row counted from 1), and why."""

    file: str
    row: int
    reason: str
    origin: str

    def __str__(self) -> str:
        return f"{self.origin}: {self.reason}"


@dataclass(frozen=True)
class Sample:
    """One example as the model sees it; what is learnt follows what evaluation would ask."""

    prompt_text: str
    trained_text: str
    prompt_ids: list[int]
    trained_ids: list[int]


@dataclass(frozen=True)
class Lengths:
    """Lengths of the examples in tokens, and what a limit costs: cut examples, and those left without an answer."""

    mean: float
    max: int
    truncated: int
    without_answer: int


@dataclass(frozen=True)
class DataReport:
    """The facts about a data set that is ready to be trained."""

    files: dict[str, list[DataFile]]
    """What was read, by split."""
    used: int
    """Rows that are trained."""
    examples: int
    """Sequences: more than rows where a conversation had to be taken apart."""
    refused: list[RefusedRow]
    unused_columns: list[str]
    sample: Sample | None
    """The first example; None where a survey found none."""
    lengths: Lengths
    digest: str
    """Of every token id and label, in order."""
    template: str
    """Digest of the chat template, as it renders them."""
    date: str | None
    """The day that the template shows; None where it shows none."""
    warnings: list[str] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        """What a run keeps of its rows, as JSON."""
        files = {split: [asdict(file) for file in found] for split, found in self.files.items()}
        facts = {"digest": self.digest, "template": self.template, "date": self.date}
        return {**facts, "rows": self.used, "examples": self.examples, "files": files}
