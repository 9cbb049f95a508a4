"""Passages as token ids, with the tokens that are learnt: each answer follows what evaluation asks, to the token.

A tokenizer may merge the end of a prompt with the beginning of an answer: a prompt that ends in a line break and an
answer that begins with one are one token together, which no model that is asked would ever see. Then the two are
tokenized apart.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate, takewhile
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from expert_condenser.data.rendering import Passage
from expert_condenser.errors import DataError

IGNORED = -100
"""The label of a token that is shown and not learnt."""


class Tokens(NamedTuple):
    """The ids of a passage; each answer is a span of positions `(start, end)`."""

    ids: list[int]
    answers: list[tuple[int, int]]

    @property
    def labels(self) -> list[int]:
        """The ids within the answers, `IGNORED` elsewhere."""
        labels = [IGNORED] * len(self.ids)
        for start, end in self.answers:
            labels[start:end] = self.ids[start:end]
        return labels

    def narrowed(self, ids: list[int], marks: list[int]) -> "Tokens":
        """The answers without what the template does not mark; marks that are of other ids say nothing."""
        if ids != self.ids:
            return self
        return self._replace(answers=[_within(marks, start, end) for start, end in self.answers])


def _within(marks: list[int], start: int, end: int) -> tuple[int, int]:
    """The part of a span that is marked; all of it where nothing is."""
    marked = [at for at in range(start, end) if marks[at]]
    return (marked[0], marked[-1] + 1) if marked else (start, end)


def encode(passages: Sequence[Passage], tokenizer: PreTrainedTokenizerBase) -> Iterator[list[Tokens] | DataError]:
    """The tokens of every passage, in one call of the tokenizer; two or more where a passage has to be taken apart."""
    texts = [text for passage in passages for text in _beginnings(passage)]
    found = iter(_ids(texts, tokenizer))
    for passage in passages:
        beginnings = [next(found) for _ in _beginnings(passage)]
        try:
            yield _aligned(passage, beginnings, tokenizer)
        except DataError as error:
            yield error


def _ids(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []
    return ids


def _beginnings(passage: Passage) -> list[str]:
    """The passage up to the end of each of its pieces; the last is all of it."""
    return list(accumulate(passage.pieces))


def _aligned(passage: Passage, beginnings: list[list[int]], tokenizer: PreTrainedTokenizerBase) -> list[Tokens]:
    whole = beginnings[-1]
    prompts, ends = beginnings[::2], [*(shared_length(each, whole) for each in beginnings[1::2])]
    if all(whole[: len(prompt)] == prompt for prompt in prompts):
        return [Tokens(whole, [(len(prompt), end) for prompt, end in zip(prompts, ends, strict=True)])]
    texts = _beginnings(passage)
    return [
        _apart(prompt, text, answer, tokenizer)
        for prompt, text, answer in zip(prompts, texts[1::2], passage.pieces[1::2], strict=True)
    ]


def _apart(prompt: list[int], text: str, answer: str, tokenizer: PreTrainedTokenizerBase) -> Tokens:
    """A prompt and its answer, tokenized apart."""
    whole, own = _ids([text, answer], tokenizer)
    if whole[: len(prompt)] == prompt:
        return Tokens(whole, [(len(prompt), len(whole))])
    ids = prompt + own
    if tokenizer.decode(ids) != tokenizer.decode(whole):
        raise DataError(
            f"the answer must begin where a token begins, but the tokenizer merges its beginning, {answer[:20]!r}, "
            "with the end of the prompt; set a chat template that ends the generation prompt elsewhere"
        )
    return Tokens(ids, [(len(prompt), len(ids))])


def shared_length(left: Sequence[int], right: Sequence[int]) -> int:
    """How many leading items are the same in both."""
    if right[: len(left)] == left:
        return len(left)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False)))
