import pytest

from expert_condenser.evaluation.answers import ANSWER, LATEX, LETTER, NUMBER, TRUTH, VERBATIM
from expert_condenser.evaluation.answers.passage import boxes, marked, passages, statements

QUESTION = "Tom has 3 pens and loses 1. How many has he?"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a", ["a"]),
        (" a \n", ["a"]),
        ("", []),
        ("<think>a</think>b", ["b", "<think>a"]),
        ("<think>a</think> ", ["<think>a"]),
        ("a</think>b</think>c", ["c", "a</think>b"]),
        (f"a\nQ: {QUESTION}", ["a"]),
        (f"a.\n\n**Question 2:** {QUESTION}", ["a."]),
        (f"a. Q: {QUESTION}", ["a."]),
        (f"a\n### Instruction:\n{QUESTION}", ["a"]),
        ("a\nPlease choose the correct answer to the question: b", ["a"]),
        (f"Question: {QUESTION}\nAnswer: 2", [f"Question: {QUESTION}\nAnswer: 2"]),
        ("What is the Question: this?", ["What is the Question: this?"]),
        ("**a** `b` \\(c\\) \\[d\\] $$e$$", ["a b $c$ $d$ $e$"]),
        ("\u2212a\u2019s", ["-a's"]),
    ],
)
def test_passages(text, parts):
    assert passages(text) == parts


@pytest.mark.parametrize(
    ("text", "contents"),
    [
        ("\\boxed{a}", ["a"]),
        ("\\boxed{a} \\fbox {b}", ["b", "a"]),
        ("\\boxed{\\frac{1}{2}}", ["\\frac{1}{2}"]),
        ("\\boxed{\\{1, 2\\}}", ["\\{1, 2\\}"]),
        ("\\boxed{a\\boxed{b}c}", ["b", "a\\boxed{b}c"]),
        ("\\boxed{a", []),
        ("{a} \\text{b} boxed{c}}", []),
        ("\\boxed{}", [""]),
    ],
)
def test_boxes(text, contents):
    assert boxes(text) == contents


@pytest.mark.parametrize(
    ("text", "lines"),
    [("a", []), ("a #### 5", ["5"]), ("#### 4\n####\n5\nb", ["5"]), ("####", []), ("#### 1. Add", [])],
)
def test_marked(text, lines):
    assert list(marked(text)) == lines


@pytest.mark.parametrize(
    ("text", "clauses"),
    [
        ("The answer is 5.5. So", ["5.5"]),
        ("the answer (in km) would be 5; b", ["5"]),
        ("Answer:\n\n 5\nb", ["5"]),
        ("## Final Answer\n5", ["5"]),
        ("The answer to the question of Tom is a. The answer equals b!", ["a", "b"]),
        ("a. Wait, it is 5.", ["5"]),
        ("No, that's 5", ["5"]),
        ("The answers are 5 and 6", ["5 and 6"]),
        ("We choose B.", ["B"]),
        ("Ans: 5", ["5"]),
        ("a. That's wrong. It should be 5.", ["5"]),
        ("It is wrong to think that the answer is a; it should be 5", ["a"]),
        ("It should be 5.", []),
        ("The correct value is 5.", ["5"]),
        ("The value is 5.", []),
        ("Answer choices: a", []),
        ("Answer1: a", []),
        ("The answer isn't 5", []),
        ("She answered: 5", []),
    ],
)
def test_statements(text, clauses):
    assert [clause for _, clause in statements(text, r"\bchoose\b")] == clauses


@pytest.mark.parametrize(
    "text",
    [
        *("\\boxed{" * 999, "\\boxed{" * 500 + "}" * 500, "the answer is " * 500, "1,111," * 999, "1 and " * 999),
        *(
            "(" * 5000,
            " " * 5000,
            "$" * 5000,
            "-" * 5000,
            "1/" * 2500,
            "a " * 2500,
            "answer1/" * 900,
            "not true " * 500,
            "wrong " * 900,
            "1 234 " * 900,
            "minus 5 " * 500,
            "\\frac{" * 900,
            "{{}" * 900,
        ),
        *("</think>" * 900, "####" * 1000, "\n\t" * 2500, "answer to " * 500, "(A) " * 999, "that " * 900),
    ],
)
def test_endless_repetitions_are_read_in_time(text):
    """A pattern that backtracks without end would hang here; what is read, if anything, comes from the text."""
    for kind in (NUMBER, LETTER, TRUTH, ANSWER, LATEX, VERBATIM):
        found = kind.extract(text)
        assert found is None or 0 < len(found) <= len(text)
