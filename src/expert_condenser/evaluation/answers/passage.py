"""What every kind of answer shares: which part of a generated text may answer, and where it states its answer."""

import re
from collections.abc import Iterator

from expert_condenser.evaluation.answers.emphasis import with_stars
from expert_condenser.evaluation.answers.heads import ANSWER_IS, CORRECTION, IN_OTHER_LANGUAGES
from expert_condenser.evaluation.answers.run_on import up_to_run_on
from expert_condenser.evaluation.answers.thoughts import said
from expert_condenser.evaluation.answers.typography import plain_signs

SENTENCE_END = re.compile(r"\n|[;!?]|\.(?!\d)")
CLAUSE = 500
"""Characters in which a statement says its answer; a longer sentence is a model that repeats itself."""
_EMPHASISED = re.compile(
    r"""(\bans(?:wer)?[ ]*\**[ ]*:\**[ \t]*|\banswer[ ]is[ ])
    (?=[^\n*:]{2,200}\*\*[^\n*]+\*\*[^\n*]*$) (?:(?!\b(?:not|never|except)\b|n't)[^\n*:]){2,200}
    \*\*(?=[^\n*]*[\d\\]|\(?[A-E]\b)([^\n*]+)\*\*""",
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
_THERE_ARE = re.compile(r"(?<=final answer: )there (?:is|are|was|were|will be|would be) ", re.IGNORECASE)
_BOLD = r"\*{0,2}"
_PERCENT = rf"{_BOLD}\d+(?:\.\d+)?[ ]?(?:%|percent){_BOLD}"
_SURE = rf"{_BOLD}[~≈]?[ ]?\d+(?:\.\d+)?[ ]?(?:%|percent\b|/[ ]?\d+|out[ ]of[ ]\d+)?{_BOLD}"
_SAYS = rf"""["']?{_BOLD}[ ]?[:=]{_BOLD}[ ]?["']?{_SURE}"""
_CONFIDENCE = re.compile(
    rf"""{_BOLD}[(\[]?\b(?:my[ ])?
      (?:confidence|certainty|confianza|confiança|confiance|konfidenz|уверенность|置信度|信心)
      (?:[ ](?:level|score|rating|in[ ](?:this|my)[ ]answer))?[ ]?{_SAYS}[)\]]?\.?
    | \bmy[ ]confidence(?:[ ]level)?[ ]is[ ]{_SURE}\.?
    | [(\[]?\bI(?:'m|[ ]am)[ ](?:about[ ])?{_PERCENT}[ ](?:sure|confident|certain)\b[)\]]?\.?
    | [(\[]?\b(?:with[ ])?(?:a[ ])?{_PERCENT}[ ](?:confidence|certainty|confident|sure|certain)\b
      (?![ ](?:interval|level|bound|limit))[)\]]?\.?""",
    re.IGNORECASE | re.VERBOSE,
)
_GUESS = re.compile(
    rf"""\b(?:guess|answer)(?={_BOLD}["']?{_BOLD}[ ]?[:=])([^\n]{{1,200}}?)(?:\n\s*|[,;][ ])
    {_BOLD}["']?\b(?:probability|likelihood)(?:[ ](?:that|of)[ ][^\n:=]{{1,60}})?{_SAYS}\.?""",
    re.IGNORECASE | re.VERBOSE,
)
"""A guess with its probability, as models are asked for them; a probability alone may be the answer."""
ANSWER_TAG = re.compile(r"<((?:final_)?answer|ans)>((?:(?!</?(?:final_)?ans)[\s\S])*)(?=</\1>|\Z)", re.IGNORECASE)
BRACE = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)


def passages(text: str) -> list[str]:
    """The parts of a text that may answer, the best one first: see `thoughts` and `run_on` for what is none.

    Bold marks and back ticks are dropped, and every delimiter of a formula becomes `$`. After "Final answer:" what is
    in bold, if one thing is, stands first. How sure the model is of its answer ("Confidence: 95%") is left out.
    """
    return [plain(part) for part in emphasised(text)]


def emphasised(text: str) -> list[str]:
    """The parts of a text that may answer, each with its bold marks: `plain` drops them."""
    parts = said(plain_signs(text), up_to_run_on)
    return [kept for part in parts if plain(kept := _without_doubts(part[up_to_run_on(part)]))]


def plain(part: str) -> str:
    """A part of a text without its bold marks, and with `$` for every delimiter of a formula."""
    text = _THERE_ARE.sub("", part.replace("**", ""))
    return re.sub(r"\\[()\[\]]|\$\$", "$", text).strip()


def _without_doubts(part: str) -> str:
    text = _EMPHASISED.sub(r"\1\2", with_stars(part.replace("`", "")))
    sure = _CONFIDENCE.sub("", _GUESS.sub(r"Answer\1", text))
    return sure if re.search(r"\w", sure) else text


def boxes(text: str) -> list[str]:
    r"""The contents of `\boxed{…}` with its nested braces, the last one first; a box cut off at the end is none.

    Behind them come those of `<answer>…</answer>`.
    """
    open_braces: list[int | None] = []
    closed: list[tuple[int, int]] = []
    for brace in BRACE.finditer(text):
        if brace[0].endswith("{") and brace[0] != r"\{":
            open_braces.append(brace.end() if len(brace[0]) > 1 else None)
        elif brace[0] == "}" and open_braces:
            start = open_braces.pop()
            closed += [(start, brace.start())] if start is not None else []
    tagged = [found[2].strip() for found in ANSWER_TAG.finditer(text)]
    return [text[start:end] for start, end in sorted(closed, reverse=True)] + tagged[::-1]


def marked(text: str) -> Iterator[str]:
    """The line after the last `####`, GSM8K's mark; a numbered heading is none."""
    _, mark, after = text.rpartition("####")
    line = after.strip().partition("\n")[0]
    if mark and line and not re.match(r"\d+[.)]\s+[A-Za-z]", line):
        yield line


def statements(text: str, *more: str) -> list[tuple[int, str]]:
    """Where a text says "the answer is", "answer:", "wait, it is" or one of `more`, and the rest of that sentence.

    In their order. The rest may begin on the next line. "It should be" counts only after "wrong" or the like.
    """
    heads = re.compile("|".join((ANSWER_IS, CORRECTION, IN_OTHER_LANGUAGES, *more)), re.IGNORECASE | re.VERBOSE)
    found = []
    for head in heads.finditer(text):
        start = re.compile(r"[\s:$]*").match(text, head.end()).end()  # type: ignore[union-attr]
        end = SENTENCE_END.search(text, start, start + CLAUSE)
        found.append((head.start(), text[start : end.start() if end else start + CLAUSE]))
    return found
