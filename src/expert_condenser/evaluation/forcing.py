"""Answers by teacher forcing: whether greedy decoding would write the reference, told from one forward.

An item counts as right if the whole reference is what the model would write, to its end; its nll is kept with it, so
that what is computed from nll can be resampled over items.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from expert_condenser.errors import EvaluationError
from expert_condenser.evaluation.backends.base import Backend, ForcedBackend
from expert_condenser.evaluation.generation import Generation
from expert_condenser.evaluation.record import Record
from expert_condenser.evaluation.requests import Request
from expert_condenser.evaluation.tasks.task import LoadedTask

MODE = "teacher_forced"
_DECIMALS = 4


def forcing(backend: Backend) -> ForcedBackend:
    """The backend, if it can be forced; raises `EvaluationError` if it only generates."""
    if not isinstance(backend, ForcedBackend):
        raise EvaluationError(
            f"mode {MODE} needs the model's argmax at every token of the references, which the backend "
            f"{backend.identity['backend']} does not tell; take the backend transformers"
        )
    return backend


def check_forcing(tasks: Sequence[LoadedTask], generation: Generation) -> None:
    """Raise `EvaluationError` on questions without a reference, and on options of decoding."""
    generation.check_nothing_is_decoded(MODE)
    without = [task.name for task in tasks if not all(question.reference for question in task.questions)]
    if without:
        raise EvaluationError(
            f"mode {MODE} asks for tasks whose every question has a whole reference answer; got {', '.join(without)}; "
            "leave them out, or generate"
        )


def force(backend: ForcedBackend, batch: Sequence[Request], batch_size: int) -> list[Record]:
    """A record for each request: its output is the reference where the model would write that, and else empty."""
    questions = [request.question for request in batch]
    found = backend.teacher_forced([q.prompt for q in questions], [q.reference for q in questions], batch_size)
    return [
        replace(
            request.record(request.question.reference if exact else "", 0, ended=True),
            forced={"exact": exact, "nll": nll, "tokens": tokens},
        )
        for request, exact, nll, tokens in zip(batch, found.exact, found.nll, found.tokens, strict=True)
    ]


def nll_of_items(records: Sequence[Record]) -> dict[str, Any]:
    """A task's nll per token, and of every item, in the order of its questions, its nll in nats and its tokens.

    Both lists are texts with blanks, one short line each in a file that people read.
    """
    forced = [record.forced for record in records if record.forced is not None]
    return {
        "nll": sum(item["nll"] for item in forced) / sum(item["tokens"] for item in forced),
        "nll_items": " ".join(f"{item['nll']:.{_DECIMALS}f}" for item in forced),
        "token_items": " ".join(str(item["tokens"]) for item in forced),
    }
