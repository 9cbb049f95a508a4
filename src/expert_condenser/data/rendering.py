"""Conversations as the text that a model reads: what it is shown, and what it has to answer.

A row becomes one passage or more. A passage is a text that goes on from the generation prompt with the answer, again
and again: what is shown before each answer is the generation prompt that evaluation and serving show, and what is
learnt is all that the template writes from there to the end of the turn. Templates that rewrite earlier turns (they cut
old thoughts, say) make a passage of its own for each turn that is trained.
"""

import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, NamedTuple

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from expert_condenser.data.conversation import Conversation, Message
from expert_condenser.data.reading import name_of_tool
from expert_condenser.data.templates import check_options, dated, template_of
from expert_condenser.data.thoughts import apart, closed, going_on, opened, written_thoughts
from expert_condenser.data.turns import with_json_arguments
from expert_condenser.errors import DataError

TEMPLATE_ERRORS = (TemplateError, TypeError, ValueError, LookupError, AttributeError, RecursionError)
"""What a template raises on turns that it does not expect."""
LOSS_ON = ("all", "last", "everything")
"""Which turns of the assistant are learnt; `everything` is every token, prompts too."""
_GENERATION = re.compile(r"\{%-?\s*generation\b")


class Passage(NamedTuple):
    """Texts that alternate: what is shown, what is answered, what is shown next, and so on."""

    pieces: tuple[str, ...]
    turns: int
    """How many turns of the row it goes through."""

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self.pieces)


@dataclass
class Renderer:
    """A tokenizer's chat template, and how a recipe wants it used. Raises `DataError` where an option has no effect."""

    tokenizer: PreTrainedTokenizerBase
    date: datetime.date | None = None
    """The day that the template sees as today's; None: the day on which it is rendered."""
    loss_on: str = "all"
    end_of_turn: str = ""
    """What ends an answer that the template leaves open."""
    _shapes: dict[Any, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.loss_on not in LOSS_ON:
            raise DataError(f"loss_on is one of {', '.join(LOSS_ON)}, but it is {self.loss_on!r}")
        template = template_of(self.tokenizer)
        self.template = template if self.date is None else dated(template, self.date)

    def text(
        self,
        turns: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        options: Mapping[str, Any] | None = None,
        *,
        opening: bool = False,
    ) -> str:
        """The conversation as text, with `opening` up to where the assistant answers; raises `DataError`."""
        return str(self._rendered(turns, tools, options, tokenize=False, add_generation_prompt=opening))

    def marked(self, row: Conversation, passage: Passage) -> tuple[list[int], list[int]] | None:
        """The ids of a passage, and 1 for each that the template's `{% generation %}` marks, where it has marks."""
        if not _GENERATION.search(self.template):
            return None
        wanted = {"tokenize": True, "return_dict": True, "return_assistant_tokens_mask": True}
        found = self._rendered(row.turns[: passage.turns], row.tools, row.options, **wanted)
        return found["input_ids"], found["assistant_masks"]

    def _rendered(self, turns: Sequence[Message], tools: Any, options: Any, **wanted: bool) -> Any:
        """What the tokenizer makes of the turns; some templates take the arguments of tool calls as JSON alone."""
        try:
            return self.tokenizer.apply_chat_template(
                list(turns), tools=list(tools) or None, chat_template=self.template, **{**(options or {}), **wanted}
            )
        except TEMPLATE_ERRORS as error:
            as_json = with_json_arguments(turns)
            if as_json is not None:
                return self._rendered(as_json, tools, options, **wanted)
            raise DataError(f"the chat template must render every turn of the data, but it fails: {error}") from error

    def passages(self, row: Conversation) -> list[Passage]:
        """What a row trains; raises `DataError` where the template shows less than the row says."""
        check_options(self.template, row.options)
        targets = [at for at, trained in enumerate(row.trained) if trained]
        passages: list[Passage] = []
        for at in targets[-1:] if self.loss_on == "last" else targets:
            shown = self._shown(row, at)
            answer = self._answer(row, at, shown)
            before = passages[-1] if passages and shown.startswith(passages[-1].text) else None
            if before is None:
                passages.append(Passage((shown, answer), at + 1))
            else:
                passages[-1] = Passage((*before.pieces, shown[len(before.text) :], answer), at + 1)
        return passages

    def _shown(self, row: Conversation, at: int) -> str:
        """The generation prompt before a turn; every earlier turn is in it."""
        before = row.turns[:at]
        self._check_shape(row, before)
        shown = self.text(before, row.tools, row.options, opening=True)
        for turn in before:
            for text in (_answer_of(turn), *(call["function"]["name"] for call in turn.get("tool_calls", ()))):
                _check_is_in(text.strip(), shown, f"the turn of {turn['role']!r}")
        for tool in row.tools:
            _check_is_in(name_of_tool(tool), shown, "the tool")
        return shown

    def _answer(self, row: Conversation, at: int, shown: str) -> str:
        turn, before = row.turns[at], row.turns[:at]
        parted, marks = apart(turn), opened(shown)
        forms = [form for form in ((parted, turn) if marks else (turn, parted)) if form is not None]
        whole, dropped = "", ""
        for form in forms:
            whole = self.text([*before, form], row.tools, row.options)
            if whole.startswith(shown):
                answer = whole[len(shown) :]
                missing = _missing(form, answer)
                if missing is None:
                    return self._ended(answer)
                dropped = dropped or missing
        if marks is not None:
            prefill = shown[shown.rindex(marks.opening) :]
            plain = {key: part for key, part in turn.items() if key != "reasoning_content"}
            bare = self.text([*before, plain | {"content": _answer_of(turn)}], row.tools, row.options)
            context = shown.removesuffix(prefill)
            if bare.startswith(context):
                off = self._without_thinking(row, before)
                answer = going_on(turn, marks, prefill, bare.removeprefix(context), off)
                if _missing(turn, answer) is None:
                    return self._ended(answer)
        raise DataError(_reason(turn, shown, whole, dropped))

    def _without_thinking(self, row: Conversation, before: Sequence[Message]) -> str:
        options = {**row.options, "enable_thinking": False, "thinking": False}
        return self.text(before, row.tools, options, opening=True)

    def _ended(self, answer: str) -> str:
        is_ended = not self.end_of_turn or answer.rstrip().endswith(self.end_of_turn)
        return answer if is_ended else answer + self.end_of_turn

    def _check_shape(self, row: Conversation, before: Sequence[Message]) -> None:
        """Raise `DataError` where the template renders nothing for a turn, whatever it says; once per order of roles.

        What the turn says may stand in another one too, so that a search for it in the text would not be enough.
        """
        shape = (tuple(turn["role"] for turn in before), bool(row.tools), tuple(sorted(row.options)))
        if shape not in self._shapes:
            self._shapes[shape] = self._unseen(row, before)
        if self._shapes[shape]:
            raise DataError(self._shapes[shape])

    def _unseen(self, row: Conversation, before: Sequence[Message]) -> str:
        signs = [f"sign{at}of{len(before)}" for at in range(len(before))]
        signed = [{"role": turn["role"], "content": sign} for turn, sign in zip(before, signs, strict=True)]
        try:
            shown = self.text(signed, row.tools, row.options, opening=True)
        except DataError:
            return ""  # a turn of a tool without its call, say; the row itself is rendered next
        lost = next((turn["role"] for turn, sign in zip(before, signs, strict=True) if sign not in shown), None)
        if lost is None:
            return ""
        return (
            f"the chat template renders nothing for a turn of {lost!r}, which the model would never see; write it into "
            "another turn, or set chat_template_path to a template that shows it"
        )


def _answer_of(turn: Message) -> str:
    """A turn's content without thoughts, which templates leave out of earlier turns."""
    written = written_thoughts(turn["content"])
    text: str = written.answer if written is not None else turn["content"]
    return text


def _check_is_in(text: str, shown: str, what: str) -> None:
    if text not in shown:
        raise DataError(
            f"the chat template must render all of the data, but it drops {text[:60]!r} ({what}), which the model "
            "would never see; set a chat template that keeps it"
        )


def _missing(turn: Message, answer: str) -> str | None:
    """The first part of a turn that its rendered answer lacks."""
    written = written_thoughts(turn["content"])
    parts = [written.thoughts, written.answer] if written else [turn["content"]]
    parts.append(turn.get("reasoning_content", ""))
    for call in turn.get("tool_calls", ()):
        function = call["function"]
        arguments = function["arguments"]
        values = arguments.values() if isinstance(arguments, Mapping) else ()
        parts += [function["name"], *(value for value in values if isinstance(value, str) and value.isalnum())]
    return next((part for part in map(str.strip, parts) if part not in answer), None)


def _reason(turn: Message, shown: str, whole: str, dropped: str) -> str:
    """Why an answer cannot be trained under the template, and what to do."""
    if dropped:
        return (
            f"the chat template must render the whole completion, but it drops {dropped[:60]!r}, which would not be "
            "trained; write it into 'content', or set a chat template that keeps it"
        )
    has_thoughts = turn.get("reasoning_content") or written_thoughts(turn["content"])
    if closed(shown) and has_thoughts:
        return (
            "the chat template's generation prompt closes the thoughts before they begin, and this row has thoughts; "
            "set chat_template_kwargs to what turns thinking on (enable_thinking: true, say), or drop the thoughts"
        )
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(shown, whole, strict=False)))
    return (
        "the rendered prompt must be a prefix of the rendered conversation, but the chat template rewrites the prompt "
        f"from character {shared} on ({shown[shared:][:40]!r} against {whole[shared:][:40]!r}), so the answer-only "
        "loss would be wrong; set a chat template that renders the prompt the same way in both"
    )
