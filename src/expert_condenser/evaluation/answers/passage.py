"""What every kind of answer shares: which part of a generated text may answer, and where it states its answer."""

import re
from collections.abc import Iterator

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
_SURE = r"[~≈]?[ ]?\d+(?:\.\d+)?[ ]?(?:%|percent\b|/[ ]?\d+|out[ ]of[ ]\d+)?"
_CONFIDENCE = re.compile(
    rf"""[(\[]?\b(?:my[ ])?(?:confidence|certainty|confianza|confiança|confiance|konfidenz|уверенность|置信度|信心)
      (?:[ ](?:level|score|rating|in[ ](?:this|my)[ ]answer))? ["']?[ ]?[:=][ ]?["']?{_SURE}[)\]]?\.?
    | \bmy[ ]confidence(?:[ ]level)?[ ]is[ ]{_SURE}\.?
    | [(\[]?\bI(?:'m|[ ]am)[ ](?:about[ ])?\d+(?:\.\d+)?[ ]?(?:%|percent)[ ](?:sure|confident|certain)\b[)\]]?\.?
    | [(\[]?\b(?:with[ ])?(?:a[ ])?\d+(?:\.\d+)?[ ]?(?:%|percent)[ ](?:confidence|certainty|confident|sure|certain)\b
      (?![ ](?:interval|level|bound|limit))[)\]]?\.?""",
    re.IGNORECASE | re.VERBOSE,
)
ANSWER_TAG = re.compile(r"<((?:final_)?answer|ans)>((?:(?!</?(?:final_)?ans)[\s\S])*)(?=</\1>|\Z)", re.IGNORECASE)
BRACE = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)


def passages(text: str) -> list[str]:
    """The parts of a text that may answer, the best one first: see `thoughts` and `run_on` for what is none.

    Bold marks and back ticks are dropped, and every delimiter of a formula becomes `$`. After "Final answer:" what is
    in bold, if one thing is, stands first. How sure the model is of its answer ("Confidence: 95%") is left out.
    """
    parts = said(plain_signs(text), up_to_run_on)
    return [clean for part in parts if (clean := _cleaned(part[up_to_run_on(part)]))]


def _cleaned(part: str) -> str:
    text = re.sub(r"\*\*|`", "", _EMPHASISED.sub(r"\1\2", part))
    text = _THERE_ARE.sub("", text)
    text = re.sub(r"\\[()\[\]]|\$\$", "$", text).strip()
    sure = _CONFIDENCE.sub("", text).strip()
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
