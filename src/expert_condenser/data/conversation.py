"""What a row of training data is: a conversation, and which of its turns are learnt."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]
"""A turn as chat templates take it: `role`, `content`, and `tool_calls`, `reasoning_content`, ... where it has them."""


@dataclass(frozen=True)
class Conversation:
    """The turns of a row in their order; the loss is on those assistant turns that are `trained`."""

    turns: tuple[Message, ...]
    trained: tuple[bool, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    """The functions that the assistant may call, as JSON schemas."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What the row hands to the chat template (`chat_template_kwargs`)."""
    origin: str = ""
    """Where the row stands, for messages: `rows.jsonl, line 3`."""

    @property
    def last(self) -> int:
        """The position of the last turn that is trained."""
        return max(at for at, trained in enumerate(self.trained) if trained)

    @property
    def prompt(self) -> list[Message]:
        """What comes before the last trained turn."""
        return list(self.turns[: self.last])

    @property
    def completion(self) -> list[Message]:
        """The last trained turn."""
        return [self.turns[self.last]]
