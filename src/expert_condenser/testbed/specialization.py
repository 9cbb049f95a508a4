"""Which experts hold the facts, and what is lost without them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from expert_condenser.data.procedural.families import Item
from expert_condenser.evaluation.prompts import rendered
from expert_condenser.evaluation.teacher_forced import TeacherForced, teacher_forced
from expert_condenser.moe.usage import measure_usage
from expert_condenser.moe.without_experts import without_experts


def expert_shares(
    model: Any, tokenizer: PreTrainedTokenizerBase, items: Sequence[Item], *, answers: bool = True
) -> Float[Tensor, "L E"]:
    """Every expert's share of its layer's selections on these items, or on their prompts alone."""
    prompts = rendered([_prompt(item) for item in items], tokenizer)
    texts = [prompt + item.answer * answers for prompt, item in zip(prompts, items, strict=True)]
    counts = measure_usage(model, tokenizer, [tokenizer.encode(text) for text in texts]).counts.double()
    return counts / counts.sum(dim=1, keepdim=True)


def holders(on_facts: Float[Tensor, "L E"], on_others: Float[Tensor, "L E"], count: int) -> Int[Tensor, "L P"]:
    """The `count` experts of every layer whose share on facts exceeds their share on all else by most."""
    return (on_facts - on_others).topk(count, dim=1).indices


@contextmanager
def taken_out(model: Any, experts: Int[Tensor, "L P"]) -> Iterator[None]:
    """Within it no token chooses these experts of each layer; the others keep their weights."""
    with without_experts(model, dict(enumerate(experts.tolist())), rescale=False):
        yield


def answers_to(
    model: Any, tokenizer: PreTrainedTokenizerBase, questions: Mapping[str, Sequence[Item]]
) -> dict[str, TeacherForced]:
    """What the model makes of every family's items, by teacher-forced exact match."""
    asked = [item for items in questions.values() for item in items]
    found = teacher_forced(model, tokenizer, [_prompt(item) for item in asked], [item.answer for item in asked])
    result, start = {}, 0
    for name, items in questions.items():
        part = slice(start, start + len(items))
        result[name] = TeacherForced(found.exact[part], found.nll[part], found.tokens[part])
        start += len(items)
    return result


def _prompt(item: Item) -> list[dict[str, Any]]:
    return [{"role": "user", "content": item.question}]
