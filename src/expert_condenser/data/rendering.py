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
from expert_condenser.data.thoughts import (
    closed,
    forms_of,
    going_on,
    has_thoughts,
    opened,
    shows_others,
    without_empty_block,
    written_thoughts,
)
from expert_condenser.data.turns import THOUGHTS, with_json_arguments
from expert_condenser.errors import DataError

TEMPLATE_ERRORS = (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What a template raises on turns that it does not expect."""
LOSS_ON = ("all", "last", "everything")
"""Which turns of the assistant are learnt; `everything` is every token, prompts too."""
_LONGEST_BLOCK = 80
"""Characters at the end of a generation prompt in which an empty block of thoughts stands, if any."""
_SHORTEST_OPENING = 4
"""Characters of an opening that is looked for; a shorter one may stand anywhere."""
_CLOSED = (
    "the chat template's generation prompt closes the thoughts before they begin, and this row has thoughts; set "
    "chat_template_kwargs to what turns thinking on (enable_thinking: true, or thinking: true), or drop the thoughts"
)
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
            if turn["role"] != "tool" and turn.get("name"):  # that of a tool is the call's
                _check_is_in(turn["name"], shown, f"the name in a turn of {turn['role']!r}; ignore: name leaves it out")
        for tool in row.tools:
            _check_is_in(name_of_tool(tool), shown, "the tool")
        return shown

    def _answer(self, row: Conversation, at: int, shown: str) -> str:
        turn, before = row.turns[at], row.turns[:at]
        marks = opened(shown)
        whole, dropped = "", ""
        if closed(shown) and has_thoughts(turn):
            raise DataError(_CLOSED)
        for form in forms_of(turn):
            whole = self.text([*before, form], row.tools, row.options)
            if whole.startswith(shown):
                answer = whole[len(shown) :]
                missing = _missing(form, answer)
                if missing is None and not _writes_over(form, answer):
                    return self._ended(answer)
                dropped = dropped or missing or ""
            elif (found := self._behind_opening(row, before, shown, form, whole)) is not None:
                return self._ended(found)
        if marks is not None:
            prefill = shown[shown.rindex(marks.opening) :]
            plain = {key: part for key, part in turn.items() if key != "reasoning_content"}
            bare = self.text([*before, plain | {"content": _answer_of(turn).lstrip()}], row.tools, row.options)
            context = shown.removesuffix(prefill)
            if bare.startswith(context):
                off = self._without_thinking(row, before)
                answer = going_on(turn, marks, prefill, bare.removeprefix(context), off)
                if _missing(turn, answer) is None:
                    return self._ended(answer)
        raise DataError(_reason(turn, shown, whole, dropped))

    def _behind_opening(
        self, row: Conversation, before: Sequence[Message], shown: str, form: Message, whole: str
    ) -> str | None:
        """The answer where the template rewrites what stands before it, once it is there: what follows the opening.

        Empty thoughts may end the opening; or earlier thoughts were shown, and are cut from then on.
        """
        context = without_empty_block(shown)
        if context is not None and whole.startswith(context) and _missing(form, whole[len(context) :]) is None:
            return whole[len(context) :]
        closed_turns = self.text(before, row.tools, row.options)
        opening = shown.removeprefix(closed_turns) if shown.startswith(closed_turns) else ""
        if len(opening.strip()) < _SHORTEST_OPENING:
            return None
        pieces = whole.split(opening)
        tails = (opening.join(pieces[at:]) for at in range(len(pieces) - 1, 0, -1))
        return next((tail for tail in tails if _missing(form, tail) is None), None)

    def _without_thinking(self, row: Conversation, before: Sequence[Message]) -> str:
        """The end of the generation prompt without thinking, which no turn changes; rendered once per options."""
        shape = ("without thinking", *(f"{name}={value}" for name, value in sorted(row.options.items())))
        if shape not in self._shapes:
            options = {**row.options, "enable_thinking": False, "thinking": False}
            self._shapes[shape] = self.text(before, row.tools, options, opening=True)[-_LONGEST_BLOCK:]
        return self._shapes[shape]

    def _ended(self, answer: str) -> str:
        is_ended = not self.end_of_turn or answer.rstrip().endswith(self.end_of_turn)
        return answer if is_ended else answer + self.end_of_turn

    def _check_shape(self, row: Conversation, before: Sequence[Message]) -> None:
        """Raise `DataError` where the template renders nothing for a turn, whatever it says; once per order of roles.

        What the turn says may stand in another one too, so that a search for it in the text would not be enough.
        """
        roles = tuple((turn["role"], len(turn.get("tool_calls", ()))) for turn in before)
        shape = (roles, bool(row.tools), tuple(sorted(row.options)))
        if shape not in self._shapes:
            self._shapes[shape] = self._unseen(row, before)
        if self._shapes[shape]:
            raise DataError(self._shapes[shape])

    def _unseen(self, row: Conversation, before: Sequence[Message]) -> str:
        if not before:
            return ""
        signed, signs = zip(*(_signed(turn, at, len(before)) for at, turn in enumerate(before)), strict=True)
        try:
            shown = self.text(signed, row.tools, row.options, opening=True)
        except DataError:
            return ""  # what a template refuses of signs; the row itself is rendered next
        lost = next((what for own in signs for what, sign in own.items() if sign not in shown), None)
        if lost is None:
            return ""
        return (
            f"the chat template renders nothing for {lost}, which the model would never see; write it into another "
            "turn, or set chat_template_path to a template that shows it"
        )


def _signed(turn: Message, at: int, count: int) -> tuple[Message, dict[str, str]]:
    """A turn that says signs in place of what it says, and each sign by what it stands for."""
    sign, role = f"sign{at}of{count}", turn["role"]
    calls = turn.get("tool_calls", ())
    if not calls:
        return {**turn, "content": sign}, {f"a turn of {role!r}": sign}
    names = [f"call{number}{sign}" for number in range(len(calls))]
    named = [{**call, "function": {**call["function"], "name": name}} for call, name in zip(calls, names, strict=True)]
    return {**turn, "tool_calls": named}, {f"tool call {at + 1} of a turn": name for at, name in enumerate(names)}


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
    parts += [turn[name] for name in (*THOUGHTS, "name") if name in turn]
    for call in turn.get("tool_calls", ()):
        function = call["function"]
        arguments = function["arguments"]
        values = arguments.values() if isinstance(arguments, Mapping) else ()
        parts += [function["name"], *(value for value in values if isinstance(value, str) and value.isalnum())]
    for part in sorted(map(str.strip, parts), key=len, reverse=True):  # a short one may stand in a long one too
        if part not in answer:
            return part
        answer = answer.replace(part, "", 1)
    return None


def _writes_over(turn: Message, answer: str) -> bool:
    """Whether the template adds thoughts of its own to a content that has some written out."""
    written = written_thoughts(turn["content"])
    return written is not None and shows_others(written, answer)


def _reason(turn: Message, shown: str, whole: str, dropped: str) -> str:
    """Why an answer cannot be trained under the template, and what to do."""
    if dropped:
        return (
            f"the chat template must render the whole completion, but it drops {dropped[:60]!r}, which would not be "
            "trained; write it into 'content', or set a chat template that keeps it"
        )
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(shown, whole, strict=False)))
    return (
        "the rendered prompt must be a prefix of the rendered conversation, but the chat template rewrites the prompt "
        f"from character {shared} on ({shown[shared:][:40]!r} against {whole[shared:][:40]!r}), so the answer-only "
        "loss would be wrong; set a chat template that renders the prompt the same way in both"
    )
