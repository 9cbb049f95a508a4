"""What a study measures of a model besides its answers: KL to the base, and relearning of what the base knew.

Each result is in `measures.json` as soon as it is there, so that a run which is killed goes on; it ends up in
`results.json` under `measures`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from transformers import PreTrainedTokenizerBase

from expert_condenser.checkpoint.load import load_model, resolve_model
from expert_condenser.errors import EvaluationError
from expert_condenser.evaluation.divergence import kl_to_base
from expert_condenser.evaluation.likelihood import reference_nll, tokens_of
from expert_condenser.evaluation.relearning import relearn
from expert_condenser.evaluation.tasks import load_tasks
from expert_condenser.evaluation.tasks.task import LoadedTask, Question
from expert_condenser.evaluation.tasks.testbed import FAMILY_TASKS
from expert_condenser.files import read_object, write_json
from expert_condenser.study.evaluation import Relearning
from expert_condenser.study.plan import Study

MEASURES = "measures.json"


def check_measures(study: Study) -> None:
    """Raise what would otherwise be raised after the first run: a task without references, or without more items."""
    spec = study.evaluate
    names = (study.learn_tasks if spec.kl_to_base else []) + (study.known_tasks if spec.relearning else [])
    questions = [(task.name, question) for task in _tasks(study, names) for question in task.questions] if names else []
    if without := sorted({name for name, question in questions if not question.reference}):
        raise EvaluationError(f"kl_to_base and relearning need reference answers; {', '.join(without)} has none")
    if spec.relearning is not None:
        if not study.known_tasks:
            raise EvaluationError("relearning is of what the base knew before, and the study has no such task")
        relearnt_questions(study, spec.relearning)


def measure(study: Study, path: Path, tokenizer: PreTrainedTokenizerBase, folder: Path, device: str) -> dict[str, Any]:
    """What the study asks for, of the model in `path`; what `folder` has already, under the same settings, is kept."""
    wanted, kept = study.evaluate.measures, folder / MEASURES
    found = read_object(kept) if kept.exists() else {}
    found = {
        name: value
        for name, value in found.items()
        if name in wanted and isinstance(value, dict) and value.get("settings") == wanted[name]
    }
    for name in [name for name in wanted if name not in found]:
        model = load_model(path).to(device)
        found[name] = {"settings": wanted[name], **_MEASURES[name](study, model, tokenizer)}
        write_json(kept, found)
    return found


def _kl_to_base(study: Study, model: Any, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """On every task that is to be learnt, and the mean of them."""
    base = load_model(resolve_model(study.base)).to(model.device)
    tasks = {
        task.name: kl_to_base(model, base, tokenizer, *_asked(task.questions), batch_size=study.evaluate.batch_size)
        for task in _tasks(study, study.learn_tasks)
    }
    return {"tasks": tasks, "mean": fmean(tasks.values())}


def _relearning(study: Study, model: Any, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The nll of what the base knew, a mean over its tasks, before and after a few steps; the model is then used up."""
    settings = study.evaluate.relearning
    assert settings is not None
    asked = _tasks(study, study.known_tasks)

    def nll() -> dict[str, float]:
        size = study.evaluate.batch_size
        return {task.name: reference_nll(model, tokenizer, *_asked(task.questions), batch_size=size) for task in asked}

    before = nll()
    rows = tokens_of(*_asked(relearnt_questions(study, settings)), tokenizer)
    relearn(model, rows, steps=settings.steps, batch_size=settings.batch_size, learning_rate=settings.learning_rate)
    after = nll()
    return {
        "nll_before": fmean(before.values()),
        "nll_after": fmean(after.values()),
        "tasks": {name: [before[name], after[name]] for name in before},
    }


_MEASURES = {"kl_to_base": _kl_to_base, "relearning": _relearning}


def relearnt_questions(study: Study, settings: Relearning) -> list[Question]:
    """Validation items of the known tasks, one of each in turn."""
    each = -(-settings.items // len(study.known_tasks))
    found = _load(study, dict.fromkeys(study.known_tasks, each), "validation")
    return [task.questions[at] for at in range(each) for task in found][: settings.items]


def _tasks(study: Study, names: Sequence[str]) -> list[LoadedTask]:
    return _load(study, {name: study.evaluate.tasks[name] for name in names}, study.evaluate.split)


def _load(study: Study, counts: Mapping[str, int], split: str) -> list[LoadedTask]:
    reads = study.evaluate.data is not None and any(name not in FAMILY_TASKS for name in counts)
    return load_tasks(counts, Path(str(study.evaluate.data)) if reads else None, split)


def _asked(questions: Sequence[Question]) -> tuple[list[Any], list[str]]:
    return [question.prompt for question in questions], [question.reference for question in questions]
