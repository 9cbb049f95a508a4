"""What an evaluation is of: the terms that decide every answer, in `eval.json` before the first one is asked for."""

import datetime
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from expert_condenser.errors import EvaluationError
from expert_condenser.evaluation.backends.base import Backend
from expert_condenser.evaluation.generation import Generation
from expert_condenser.evaluation.record import ITEMS, unsigned
from expert_condenser.evaluation.results import FORMAT_VERSION, RESULTS
from expert_condenser.evaluation.tasks.task import LoadedTask
from expert_condenser.files import digest, read_object, write_json

SETTINGS = "eval.json"
GENERATE = "generate"
"""The mode in which answers are written; it is not named in any file."""
logger = logging.getLogger(__name__)


class Asking(NamedTuple):
    """How questions are asked, and what the results say besides."""

    mode: str = GENERATE
    date: datetime.date | None = None
    """The day that the chat template shows as today's, where it shows one."""
    modes: Mapping[str, str] = MappingProxyType({})
    """Task -> its mode, where it is another one than `mode`."""
    measures: Mapping[str, Any] = MappingProxyType({})
    """What was measured of the model by other means: it goes into the results as it is."""

    def mode_of(self, task: str) -> str:
        """The mode in which a task is asked."""
        return self.modes.get(task, self.mode)


GENERATING = Asking()


def settings_of(
    backend: Backend,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[LoadedTask],
    generation: Generation,
    label: str | None = None,
    asking: Asking = GENERATING,
) -> dict[str, Any]:
    """The terms of an evaluation, whoever starts it: the model's identity, decoding, and fingerprints per task.

    `label` is what the results call the model, by default its name; neither decides anything. A mode that is not
    the first one is part of all fingerprints of prompts, so that its scores are compared with its own kind alone; so
    is the date, which the tokenizer's template has in it by now.
    """
    identity = dict(backend.identity)
    name, weights = identity.pop("model"), identity.pop("weights")
    decoding = {key: value for key, value in asdict(generation).items() if key != "batch_size"}
    limits = {task.name: generation.max_new_tokens or task.max_new_tokens for task in tasks}
    own = {key: value for key, value in decoding.items() if key != "max_new_tokens"}
    questions, modes = fingerprints(tasks), {task.name: asking.mode_of(task.name) for task in tasks}
    special = {name: [] if mode == GENERATE else [mode] for name, mode in modes.items()}
    named = {**_named(modes), **({"date": str(asking.date)} if asking.date else {})}
    whole = [modes] if len({*modes.values()}) > 1 else next(iter(special.values()), [])
    return {
        "format_version": FORMAT_VERSION,
        "model": label or name,
        "weights": weights,
        "prompts": digest([tokenizer.chat_template, decoding, limits, *whole]),
        "generation": {**asdict(generation), **identity, **named},
        "tasks": {
            name: {
                "prompts": digest([tokenizer.chat_template, own, limit, *special[name]]),
                "questions": questions[name],
            }
            for name, limit in limits.items()
        },
    }


def _named(modes: Mapping[str, str]) -> dict[str, Any]:
    """How results say the mode of their tasks: nothing where all are generated, `mode` where all have the same."""
    different = {*modes.values()}
    if len(different) > 1:
        return {"modes": dict(modes)}
    return {} if different <= {GENERATE} else {"mode": different.pop()}


def fingerprints(tasks: Sequence[LoadedTask]) -> dict[str, str]:
    """Of the questions of every task, with their gold and reference answers."""
    return {
        task.name: digest([{**asdict(question), "gold": unsigned(question.gold)} for question in task.questions])
        for task in tasks
    }


def start_or_go_on(out: Path, settings: dict[str, Any]) -> None:
    """Write `eval.json`, or check that it says the same; raises `EvaluationError` where it does not.

    An `eval.json` from before there was a `format_version` goes on where all that it does say is the same.
    """
    path = out / SETTINGS
    if not path.exists():
        if (out / ITEMS).exists() or (out / RESULTS).exists():
            raise EvaluationError(f"{out} holds answers without {SETTINGS}, which says to what; name another folder")
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, settings)
        return
    try:
        found, asked = _terms(read_object(path)), _terms(settings)
    except (KeyError, TypeError, AttributeError) as error:
        raise EvaluationError(
            f"{path} says what was asked; it is damaged ({error!r}): restore it, or name another folder"
        ) from error
    if "weights" not in found:
        logger.warning(f"{path} was written before 0.2: whether its answers are of the same weights is not known")
        asked = {key: value for key, value in {**asked, "model": settings["model"]}.items() if key in found}
    differing = [key for key in {**found, **asked} if found.get(key) != asked.get(key)]
    if differing:
        rows = "; ".join(f"{key}: {found.get(key)!r} there, {asked.get(key)!r} asked for" for key in differing)
        raise EvaluationError(f"{out} holds another evaluation ({rows}); name another folder, or delete this one")


def _terms(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the answers, flat. Version 1 has no fingerprint of the weights that says anything of a copy.

    Its `model` is a path where `condenser eval` wrote it, which noted the backend as well, and else a label.
    """
    own = {"prompts": settings.get("prompts"), **settings.get("generation", {})}
    if settings.get("format_version", 1) == 1:
        named = {"model": settings.get("model")} if "backend" in own else {}
        return {**own, **named, "questions": settings.get("questions")}
    questions = {name: task["questions"] for name, task in settings["tasks"].items()}
    return {**own, "weights": settings["weights"], "questions": questions}
