"""Chat templates as text: their date held fixed, and what they are told by default."""

import datetime
import json
import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from transformers import PreTrainedTokenizerBase

from expert_condenser.errors import DataError

_TODAY = re.compile(r"""strftime_now\s*\(\s*(?:"([^"]*)"|'([^']*)')\s*\)""")
_CLOCK = re.compile(r"\bstrftime_now\b(?!\s+is\s+(?:not\s+)?defined)")


def template_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """The tokenizer's chat template; raises `DataError` where it has none."""
    if not tokenizer.chat_template:
        raise DataError(
            "the tokenizer must have a chat template, but it has none; set tokenizer.chat_template "
            "(chat_template_path), and keep the same one for evaluation"
        )
    template: str = tokenizer.get_chat_template()
    return template


def dated(template: str, date: datetime.date) -> str:
    """The template with this day in place of the day on which it is rendered.

    transformers gives templates a clock, `strftime_now(format)`, and lets nobody hand them another. Raises `DataError`
    where the clock is read in a way that cannot be replaced.
    """
    fixed = _TODAY.sub(
        lambda found: json.dumps(date.strftime(found[1] if found[1] is not None else found[2])), template
    )
    if _CLOCK.search(fixed):
        raise DataError(
            "the chat template reads the clock with a format that is computed, so that no two days render alike; set "
            "chat_template_path to one that writes strftime_now('...') with the format in quotes"
        )
    return fixed


def reads_clock(template: str) -> bool:
    """Whether the same rows are rendered otherwise on another day."""
    return _CLOCK.search(template) is not None


def with_defaults(template: str, options: Mapping[str, Any]) -> str:
    """The template that takes these values where it is told none: what `chat_template_kwargs` would tell it.

    Raises `DataError` where the template does not know a name.
    """
    check_options(template, options)
    lines = (
        f"{{% if {name} is not defined %}}{{% set {name} = {json.dumps(value)} %}}{{% endif %}}"
        for name, value in options.items()
    )
    # A line break behind a block is dropped by transformers' settings of Jinja, and this one may be the template's.
    return "".join(lines) + ("\n" if options and template.startswith("\n") else "") + template


def check_options(template: str, options: Mapping[str, Any]) -> None:
    """Raise `DataError` where a name of `chat_template_kwargs` has no effect on the template."""
    for name in options:
        if not re.search(rf"\b{re.escape(name)}\b", template):
            raise DataError(
                f"chat_template_kwargs must name what the chat template heeds, and {name!r} is not in it; leave it out"
            )


def digest_of(text: str) -> str:
    """What tells two texts apart, in 16 hexadecimal digits."""
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
