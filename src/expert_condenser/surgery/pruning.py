"""One pruning as a whole: choose the experts, cut them, save, and ask the model before and after.

DIR/model           the pruned checkpoint
DIR/pruning.json    who was removed and why; size, quality and effect on the routing
DIR/experts.jsonl   the ranking of the experts that are left, in their new numbers, for the next pruning
DIR/evaluation      with `evaluate`: every version's answers to tasks, as `condenser eval` writes them
DIR/healed          with `heal`: a run of plain fine-tuning after it (`healed/model`)
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from expert_condenser.analysis.calls import calls_on
from expert_condenser.analysis.expert_lists import write_list
from expert_condenser.analysis.expert_scores import score_experts
from expert_condenser.analysis.rows import read_rows
from expert_condenser.analysis.subjects import Subject, condensers_of, find_subject, load
from expert_condenser.checkpoint.load import load_tokenizer
from expert_condenser.data.tokens import Tokens
from expert_condenser.errors import SurgeryError
from expert_condenser.evaluation.forcing import MODE as TEACHER_FORCED
from expert_condenser.files import local_path, write_json
from expert_condenser.moe.handover import SCORES
from expert_condenser.moe.layers import moe_layers
from expert_condenser.surgery.choice import criterion_of, read_choice, scores_of_usage
from expert_condenser.surgery.effect import Effect, effects_of
from expert_condenser.surgery.prune import left_of, prune
from expert_condenser.surgery.questions import ANSWERS, Questions, read_questions
from expert_condenser.surgery.removal import check_removed, lowest_scored
from expert_condenser.surgery.unprunable import UNPRUNABLE
from expert_condenser.surgery.versions import Version, version_of

FORMAT_VERSION = 1
"""Of pruning.json."""
RESULT, LIST, MODEL = "pruning.json", "experts.jsonl", "model"


@dataclass(frozen=True)
class Request:
    """What is to be pruned, by what, and on which rows it is measured."""

    model: str
    by: str | None = None
    """A criterion: usage, gate_mass, weight_norm, bias, reap, reconstruction."""
    remove: int | None = None
    """Experts per layer that go; or `keep` says how many stay."""
    keep: int | None = None
    listed: Path | None = None
    usage: Path | None = None
    data: str | None = None
    split: str | None = None
    """Of the rows that models are asked: `test`; a single file has none."""
    score_split: str = "train"
    limit: int = 256
    score_tokens: int = 2048
    max_length: int = 1024
    batch_size: int = 16
    dtype: str = "float32"
    device: str | None = None
    evaluate: str | None = None
    """Tasks of `condenser eval`, with commas between them, that the models are asked as well."""
    evaluate_data: Path | None = None
    """Where the tasks' files are; the hub where this is None."""
    evaluate_mode: str = TEACHER_FORCED


class Pruning:
    """The steps, in order: all that can be wrong is found before a weight is loaded, but for what only weights know."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.subject: Subject = find_subject(request.model)
        if reason := UNPRUNABLE.get(self.subject.shape.family):
            raise SurgeryError(
                f"a model of {self.subject.shape.family} cannot have fewer experts: {reason}. `condenser families "
                "--pruning` names the families that can"
            )
        self.questions = self._questions()
        self.criterion = None if request.by is None else criterion_of(request.by)
        self.scores, self.removed = self._read()
        self.tokenizer = load_tokenizer(self.subject.path)
        self.rows = self._rows(request.split or _default_split(request.data))
        known = self.scores is not None or self.removed is not None
        self.scored_on = [] if known else self._rows(request.score_split)
        self.versions: list[Version] = []
        self.effects: list[Effect] = []

    def _read(self) -> tuple[Tensor | None, dict[int, list[int]] | None]:
        """Scores, or the experts themselves, where a file has them."""
        request = self.request
        if request.usage is not None:
            return scores_of_usage(request.usage, self.subject), None
        if request.listed is None:
            return None, None
        found = read_choice(request.listed, self.subject, self.criterion)
        counted = request.keep is not None or request.remove is not None
        if counted == isinstance(found, dict):
            raise SurgeryError(
                f"{request.listed} "
                + ("says who is removed: leave --keep and --remove out" if counted else "ranks experts: give --keep N")
            )
        return (None, found) if isinstance(found, dict) else (found, None)

    def _rows(self, split: str) -> list[Tokens]:
        request = self.request
        if request.data is None:
            return []
        limits: dict[str, Any] = {"limit": request.limit, "max_length": request.max_length}
        return read_rows(request.data, self.subject.path, self.tokenizer, split=split, **limits)

    def _questions(self) -> Questions | None:
        request = self.request
        if request.evaluate is None:
            return None
        return read_questions(
            request.evaluate,
            mode=request.evaluate_mode,
            data=request.evaluate_data,
            limit=request.limit,
            batch_size=request.batch_size,
        )

    @property
    def num_layers(self) -> int:
        """How many layers have experts."""
        return len(self.subject.shape.layers)

    @property
    def count(self) -> int:
        """How many experts every layer loses."""
        asked, total = self.request, self.subject.shape.num_experts
        return asked.remove if asked.remove is not None else total - (asked.keep or 0)

    def run(self, folder: Path, advance: Callable[[int], None] = lambda layers: None) -> None:
        """Write the folder; it is not there yet."""
        self._before(folder, advance)
        assert self.removed is not None
        why = {"criterion": self.request.by, "list": _text(self.request.listed), "usage": _text(self.request.usage)}
        prune(self.subject.path, self.removed, folder / MODEL, {**why, "data": self.request.data})
        self.add_version("after", folder / MODEL, folder)
        if self.scores is not None:
            left = find_subject(f"{self.subject.name}={folder / MODEL}")
            write_list(folder / LIST, left, {self.criterion or "usage": left_of(self.scores, self.removed)})
        self.write(folder)

    def _before(self, folder: Path, advance: Callable[[int], None]) -> None:
        """Choose, and look at the whole model."""
        request = self.request
        model = load(self.subject, request.dtype, request.device)
        layers, condensers = moe_layers(model), condensers_of(model)
        if self.removed is None and self.scores is None:
            assert self.criterion is not None
            found = score_experts(model, self.scored_on, [self.criterion], tokens=request.score_tokens, advance=advance)
            self.scores = found[self.criterion]
        if self.removed is None:
            assert self.scores is not None
            self.removed = lowest_scored(self.scores, self.count, layers, condensers)
        check_removed(layers, self.removed, condensers)
        self.versions = [self._version("before", model, self.subject.path, folder)]
        if self.rows and layers[0].rule.handover is not SCORES:  # Llama 4 weighs what goes in, and has no such calls
            calls = calls_on(model, self.rows, request.score_tokens)
            self.effects = effects_of(layers, calls, self.removed)

    def add_version(self, name: str, path: Path, folder: Path) -> None:
        """Ask a model that came of it the same."""
        subject = find_subject(f"{name}={path}")
        model = load(subject, self.request.dtype, self.request.device)
        self.versions.append(self._version(name, model, str(path), folder))

    def _version(self, name: str, model: Any, path: str, folder: Path) -> Version:
        tasks = {}
        if self.questions is not None:
            tasks = self.questions.ask(model, self.tokenizer, path, folder / ANSWERS / name)
        return version_of(name, model, path, self.rows, batch_size=self.request.batch_size, tasks=tasks)

    def content(self) -> dict[str, Any]:
        """What `pruning.json` holds."""
        assert self.removed is not None
        asked = {key: _text(value) for key, value in vars(self.request).items()}
        return {
            "format_version": FORMAT_VERSION,
            "options": asked,
            "removed": {str(at): sorted(ids) for at, ids in self.removed.items()},
            "versions": [version.content(self.versions[0]) for version in self.versions],
            "routing": [effect.content() for effect in self.effects],
        }

    def write(self, folder: Path) -> None:
        """Write `pruning.json`, again after healing."""
        write_json(folder / RESULT, self.content(), indent=2)


def check_request(request: Request) -> None:
    """Raise `SurgeryError` where options leave open what is removed, or say it twice."""
    if request.keep is not None and request.remove is not None:
        raise SurgeryError("--keep is what is left of --remove; give one of them")
    if request.listed is not None and request.usage is not None:
        raise SurgeryError("experts are ranked by --list or by --usage; give one of them")
    if request.by is None and request.listed is None and request.usage is None:
        raise SurgeryError("experts are removed by a criterion, --by usage say, by --usage FILE, or by --list FILE")
    if request.evaluate is None and (request.evaluate_data is not None or request.evaluate_mode != TEACHER_FORCED):
        raise SurgeryError("--evaluate_data and --evaluate_mode are of the tasks of --evaluate; name some")
    try:
        torch.empty(0, device=request.device)
    except (RuntimeError, AssertionError) as error:
        raise SurgeryError(f"--device names a device of this machine; got {request.device!r}. {error}") from error
    if request.usage is not None and request.by not in (None, "usage", "activation"):
        raise SurgeryError(f"--usage has counts, which rank --by usage; got --by {request.by}")


def _default_split(data: str | None) -> str:
    return "train" if data is not None and local_path(data).is_file() else "test"


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
