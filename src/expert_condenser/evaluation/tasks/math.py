"""Mathematics: word problems with a number (GSM8K and its kin), with options (AQuA, MathQA), and MATH-500.

References are what training writes: `<think>{rationale}</think>\\boxed{answer}`. AQuA's and MathQA's options are worded
as in LLM-Adapters (github.com/AGI-Edgerunners/LLM-Adapters, `dataset/`), with the marks of its files: spaces around
AQuA's parentheses, and MathQA's letters a to f as capitals. AddSub and SingleEq have no data set on the hub.
"""

import re

from expert_condenser.data.formats import Row, read_gsm8k, read_mawps, text_of
from expert_condenser.errors import DataError
from expert_condenser.evaluation.answers import LATEX, LETTER, NUMBER
from expert_condenser.evaluation.tasks.task import CONVERTED, Asked, Hub, Reader, Task, alpaca, choices_of, need, worded

ALPACA = alpaca("boxed")


def lettered(options: list[str]) -> str:
    """Options as LLM-Adapters writes AQuA's, each `A)…`: a space before `(` and after `)`, also within them."""
    return "Answer Choices:" + "".join(f"({option}".replace("(", " (").replace(")", ") ") for option in options)


def _gsm8k(row: Row) -> Asked:
    return Asked(read_gsm8k(row, "boxed"), need(row, "answer").rpartition("####")[2].strip())


def _mawps(row: Row) -> Asked:
    return Asked(read_mawps(row, "boxed"), need(row, "ans"))


def _svamp(row: Row) -> Asked:
    """The body gets a full stop where it has none."""
    body, question = need(row, "Body").strip(), need(row, "Question").strip()
    stop = "" if body[-1] in ".,!?;:" else "."
    return worded(row, need(row, "Answer"), "boxed", instruction=f"{body}{stop} {question}", output=row.get("Equation"))


def _aqua(row: Row) -> Asked:
    options = choices_of(row, "options")
    wrong = [option for option in options if not re.match(r"[A-E]\s?\)", option)]
    if wrong:
        raise DataError(f"an option must begin with its letter, as in 'A)21', but it is {wrong[0][:60]!r}")
    instruction = f"{need(row, 'question').strip()} {lettered(options)}"
    return worded(row, need(row, "correct"), "boxed", instruction=instruction, output=row.get("rationale"))


def _mathqa(row: Row) -> Asked:
    options = need(row, "options").translate(str.maketrans("abcdef", "ABCDEF"))
    instruction = f"{need(row, 'Problem')} The options: {options}"
    return worded(row, need(row, "correct").upper(), "boxed", instruction=instruction, output=row.get("Rationale"))


def _plain(question: str, answer: str, solution: str = "") -> Reader:
    """Rows of a question and its answer, and maybe a solution."""

    def read(row: Row) -> Asked:
        gold = row.get(answer)
        single = gold[0] if isinstance(gold, list) and len(gold) == 1 else gold
        return worded(row, text_of(single), "boxed", instruction=need(row, question), output=row.get(solution))

    return Reader((question, answer), read)


SOLVED = _plain("sQuestion", "lSolutions")
"""The original files of AddSub, SingleEq and MultiArith."""


def _task(name: str, hub: Hub | None, files: tuple[str, ...], *readers: Reader) -> Task:
    return Task(name, hub, files, NUMBER, (ALPACA, *readers), 512)


GSM8K = _task("gsm8k", Hub("openai/gsm8k", "main"), ("gsm8k", "gsm8k_main"), Reader(("question", "answer"), _gsm8k))
SVAMP = _task("svamp", Hub("ChilleD/SVAMP"), ("SVAMP",), Reader(("Body", "Question", "Answer"), _svamp))
MAWPS = _task(
    "mawps",
    Hub("MU-NLPC/Calc-mawps"),
    ("mawps",),
    Reader(("original_text", "equation", "ans"), _mawps),
    _plain("question", "result"),
)
ADDSUB = _task("addsub", None, ("AddSub",), SOLVED)
SINGLEEQ = _task("singleeq", None, ("SingleEq",), SOLVED)
MULTIARITH = _task("multiarith", Hub("ChilleD/MultiArith"), ("MultiArith",), SOLVED, _plain("question", "final_ans"))
AQUA = Task(
    "aqua",
    Hub("deepmind/aqua_rat", "raw"),
    ("AQuA", "aqua_rat"),
    LETTER,
    (ALPACA, Reader(("question", "options", "correct"), _aqua)),
    512,
)
MATHQA = Task(
    "mathqa",
    Hub("allenai/math_qa", revision=CONVERTED),
    ("mathqa", "math_qa"),
    LETTER,
    (ALPACA, Reader(("Problem", "options", "correct"), _mathqa)),
    512,
)
MATH_500 = Task(
    "math_500",
    Hub("HuggingFaceH4/MATH-500"),
    ("math_500", "MATH-500", "math500"),
    LATEX,
    (ALPACA, _plain("problem", "answer", "solution")),
    2048,
)
