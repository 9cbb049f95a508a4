"""Stop tokens: an answer that is learnt must end in one of those at which generation stops."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import GenerationConfig, PreTrainedTokenizerBase

from expert_condenser.checkpoint.config import read_config
from expert_condenser.data.tokens import Tokens
from expert_condenser.errors import DataError


def generation_config_of(path: str, revision: str | None = None) -> Any:
    """How the model in a directory, or on the hub, generates; a model without such a file has it from its config."""
    options: dict[str, Any] = {} if revision is None else {"revision": revision}
    try:
        return GenerationConfig.from_pretrained(path, **options)
    except OSError:
        return read_config(path, **options).get_text_config()
    except Exception as error:  # its class takes any JSON, and fails on what it makes of it
        raise DataError(f"the generation config of {path} cannot be read: {error!r}") from error


def stops_of_model(path: str, tokenizer: PreTrainedTokenizerBase, revision: str | None = None) -> list[int]:
    """The ids at which the model in a directory, or on the hub, stops; none of its weights is read."""
    return stop_tokens(tokenizer, generation_config_of(path, revision))


def stop_tokens(tokenizer: PreTrainedTokenizerBase, generation_config: Any = None) -> list[int]:
    """The ids at which generation stops: the tokenizer's end of sequence, and those of the generation config."""
    own = getattr(generation_config, "eos_token_id", None)
    ends: Iterable[int | None] = own if isinstance(own, list | tuple) else [own]
    if any(type(end) is not int for end in ends if end is not None):
        raise DataError(f"the generation config names tokens by their ids; got eos_token_id {own!r:.60}")
    return sorted({end for end in (tokenizer.eos_token_id, *ends) if end is not None})


@dataclass
class StopCheck:
    """Finds answers after which a model would go on."""

    tokenizer: PreTrainedTokenizerBase
    stops: Sequence[int]
    _blank: dict[int, bool] = field(default_factory=dict)

    def check(self, tokens: Tokens) -> None:
        """Raise `DataError` where an answer ends in another token, white space aside."""
        for start, end in tokens.answers:
            last = next((token for token in reversed(tokens.ids[start:end]) if not self._is_blank(token)), None)
            if last not in self.stops:
                raise DataError(self._message(last))

    def _is_blank(self, token: int) -> bool:
        if token not in self._blank:
            self._blank[token] = not self.tokenizer.decode([token]).strip()
        return self._blank[token]

    def _message(self, last: int | None) -> str:
        names = ", ".join(f"{self.tokenizer.convert_ids_to_tokens(stop)!r} ({stop})" for stop in self.stops)
        stops = f"one of the tokens that generation stops at, which are {names or 'none'}"
        got = "nothing" if last is None else f"{self.tokenizer.convert_ids_to_tokens(last)!r} ({last})"
        is_mark = last is not None and last in self.tokenizer.added_tokens_decoder
        if is_mark:
            remedy = f"set eos_token: {self.tokenizer.convert_ids_to_tokens(last)!r}, at which the result will stop too"
        else:
            remedy = (
                "the chat template leaves the turn open: set end_of_turn to one of them, or chat_template_path to a "
                "template that ends it"
            )
        return f"an answer must end in {stops}, but it ends in {got}, so that the model would run on; {remedy}"
