"""Ten times the text costs about ten times as much, whatever it repeats: nothing hangs on a model that never stops."""

from time import process_time

import pytest

from expert_condenser.evaluation.answers import ANSWER, LATEX, LETTER, NUMBER, TRUTH, VERBATIM

KINDS = (NUMBER, LETTER, TRUTH, ANSWER, LATEX, VERBATIM)
FAST = ("the answer is ", "1,111,", "<think>", "user\n", "answer: **", " ")
SLOW = (
    *("\\boxed{", "1 and ", "1 234 ", "(", "$", "-", "1/", "a ", "9", "\n", "{", "\\", "= - ", "\\frac{", "1 million "),
    *("5 = ", "**", "answer is **a", "answer to ", "wait it is ", "wrong ", "not true ", "A) 5\n", "A or ", "that "),
    *("</think>", "<|user|>", "<|channel|>", "<|channel|>final<|message|>", "[INST]", "<answer>", "<answer>a</answer>"),
    *("assistantfinal", "a\nuser\n", "User: 5\n", "Q: a\n", "confidence: ", "confidence: 5%", "I am 5% sure "),
    *("Example 2: ", "\nExample 2: ", "24\nQuiz:", "\nsystem", "[Question", "guess: 5\nprobability: ", "guess: a, "),
    *("a **5** 6. ", "__5__", "_5_ ", "__a", "not **5** ", "it is C ", "leaving ", "answer - ", "答案是否"),
    *("答案是", "是2", "respuesta a ", "\\left(", "^{", "5 cm^", "see step ", "solution1 is wrong ", "\u2212 "),
    *("1'234", "1_234_", "234 ", "234\u00a0", "1.234,", "1.234", "√(", "x=1,", "x=1\\text{ or }", "3x", "\\text{a}^"),
)
SIZES = (10_000, 100_000)
FLOOR = 0.05
"""Seconds: the shorter text may state an answer that is read at once, where the longer one does not."""


@pytest.mark.parametrize("repeated", [*FAST, *(pytest.param(text, marks=pytest.mark.slow) for text in SLOW)])
def test_the_cost_is_linear(repeated):
    for kind in KINDS:
        short, long = (seconds(kind, (repeated * size)[:size]) for size in SIZES)
        assert long < 30 * max(short, FLOOR)


def seconds(kind, text):
    start = process_time()
    found = kind.extract(text)
    spent = process_time() - start
    assert found is None or 0 < len(found) <= len("answer" + text)
    return spent
