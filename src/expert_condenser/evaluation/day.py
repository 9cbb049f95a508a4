"""The day that a chat template sees as today's: one for all questions of an evaluation, whenever they are asked.

Templates that print the date (gpt-oss, Granite, Mistral) would ask other questions tomorrow than today.
"""

import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from expert_condenser.data.templates import dated, reads_clock, template_of
from expert_condenser.errors import DataError, EvaluationError
from expert_condenser.evaluation.settings import SETTINGS
from expert_condenser.files import read_object
from expert_condenser.training.record import RUN


def day_of(
    tokenizer: PreTrainedTokenizerBase, out: Path, model: str, asked: datetime.date | None = None
) -> datetime.date | None:
    """The day for an evaluation in `out` of a model by path or name; None where the template reads no clock.

    It is the one `asked` for, else the one that the evaluation began with, else that of the run which trained the
    model, else today. Raises `EvaluationError` where one is asked for and the template reads no clock.
    """
    if not (tokenizer.chat_template and reads_clock(template_of(tokenizer))):
        if asked is not None:
            raise EvaluationError(f"the chat template shows no date, so {asked} has no effect; leave the date out")
        return None
    return asked or _begun(out) or _trained(Path(model)) or datetime.date.today()


def _begun(out: Path) -> datetime.date | None:
    """The day that an evaluation has in its settings."""
    path = out / SETTINGS
    return _date(path, read_object(path).get("generation")) if path.is_file() else None


def _trained(model: Path) -> datetime.date | None:
    """The day that a run, in whose folder a model lies, showed to its template."""
    path = model.expanduser().parent / RUN
    return _date(path, read_object(path).get("data")) if path.is_file() else None


def _date(path: Path, section: Any) -> datetime.date | None:
    """The `date` of a section of a file, where it has one."""
    text = (section or {}).get("date") if isinstance(section, dict | None) else section
    try:
        return None if text is None else datetime.date.fromisoformat(text)
    except (TypeError, ValueError) as error:
        raise EvaluationError(f"{path} has a date such as 2026-01-31; got {text!r}") from error


@contextmanager
def on_the_day(tokenizer: PreTrainedTokenizerBase, date: datetime.date | None) -> Iterator[None]:
    """The tokenizer with a template that shows this day, inside; raises `EvaluationError` where it cannot be set."""
    own = tokenizer.chat_template
    try:
        tokenizer.chat_template = own if date is None else dated(template_of(tokenizer), date)
    except DataError as error:
        raise EvaluationError(str(error)) from error
    try:
        yield
    finally:
        tokenizer.chat_template = own
