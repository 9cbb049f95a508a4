"""The answers that an evaluation asks for, in batches that do not depend on what is answered already."""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from expert_condenser.evaluation.generation import Generation
from expert_condenser.evaluation.prompts import in_batches, rendered
from expert_condenser.evaluation.record import Record
from expert_condenser.evaluation.tasks.task import LoadedTask, Question


class Request(NamedTuple):
    """One answer to generate."""

    task: LoadedTask
    question: Question
    sample: int
    prompt: str
    max_new_tokens: int

    @property
    def key(self) -> tuple[str, str, int]:
        """As `Record.key`."""
        return self.task.name, self.question.id, self.sample

    def record(self, output: str, tokens: int, *, ended: bool) -> Record:
        """The record of an answer that is not scored yet."""
        return Record(
            task=self.task.name,
            id=self.question.id,
            sample=self.sample,
            prompt=[dict(turn) for turn in self.question.prompt],
            gold=self.question.gold,
            output=output,
            tokens=tokens,
            ended=ended,
            extracted=None,
            correct=False,
        )


def plan(
    tasks: Sequence[LoadedTask], tokenizer: PreTrainedTokenizerBase, generation: Generation
) -> list[list[Request]]:
    """All requests in batches, the same ones whatever is done already, so that a resumed one samples the same."""
    requests = []
    for task in tasks:
        limit = generation.max_new_tokens or task.max_new_tokens
        prompts = rendered([question.prompt for question in task.questions], tokenizer)
        for question, prompt in zip(task.questions, prompts, strict=True):
            requests += [Request(task, question, sample, prompt, limit) for sample in range(generation.samples)]
    batches = []
    requests.sort(key=lambda request: request.max_new_tokens)
    for _, group in groupby(requests, key=lambda request: request.max_new_tokens):
        members = list(group)
        lengths = [len(ids) for ids in tokenizer([m.prompt for m in members], add_special_tokens=False)["input_ids"]]
        batches += [[members[i] for i in batch] for batch in in_batches(lengths, generation.batch_size)]
    return batches
