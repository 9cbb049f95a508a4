"""Texts over which a careless regular expression looks again and again, and how long a reading of them takes."""

import time

UNITS = (
    *(" ", "\n", "\t", " \n", "\r\n", "\u2028", "0", "1 ", "12,", "1/", "1.5", "000 ", "1 000 ", "1 1/2 ", "1'000"),
    *(
        "1.000,",
        "a",
        "A ",
        "a ",
        "word ",
        "A or ",
        "A is ",
        "A is the ",
        "option A ",
        "(A)",
        "A) ",
        "A. ",
        "A: ",
        "\nA",
    ),
    *("-", "- ", "--", "1-", "a-", "\u2212", "\u2013", ".", ". ", ",", ":", "*", "**", "* ", "**1", "**1**", "** **"),
    *("_", "__a", "`", "$", "$ ", "$-", "\\", "\\(", "\\[", "{", "}", "{{}", "(", "((", ")", "[", "]", "\n A. x"),
    *("\\boxed{", "\\boxed{1", "\\boxed{}", "\\frac", "\\frac{", "\\frac{1}", "\\frac{1}{", "\\text{", "\\text{a"),
    *("\\text {", "\\left(", "\\times ", "^", "^ {", "m ^ {", "1^", "_{", "½", "x10", "* 10 ^ {", "1%", "1=", "1+"),
    *("x+1", "e1", "1e5 ", "/", "//", "|", "=", "#", "#### ", "<", "<think>", "</think>", "<answer>", "<answer>a"),
    *("<ans>", "</answer>", "<|", "<|channel|>a", "<|start|>", "<|channel|>final<|message|>", "answer is ", "answer: "),
    *("The answer is 1", "the answer is not ", "wait, it is ", "Final answer: ", "answer is that ", "not a but "),
    *("false or ", "yes/", "solution1 or ", "it's B ", "leaving ", "Human: ", "\n\nHuman: ", "\nQ: ", "Question: "),
    *("step 1", "1 million ", "\\text{million", "1 and ", "1 to ", "hours ", "(because ", "between ", "I'm 9", "not "),
    *("my confidence is 9", "probability: ", "guess: a\n", "**answer:** ", "ans: ab**1**", "é", "\uff0c", "答案是"),
    *("ответ ", "la respuesta es ", "therefore ", "about ", "that a b c d e ", "!", "? ", ";", "<<", "<<1", ">>"),
)
SAMPLE = ("12,", "½", "**1**", "1-", "\\boxed{}", " ", "\\frac{1}{", "answer: ", "<answer>a", "m ^ {", "ans: ab**1**")
"""One of each kind of those that take longest."""


def text_of(unit, length):
    """A text of so many characters that says one thing over and over, and ends otherwise."""
    return unit * (length // len(unit)) + "x"


def seconds(function, text):
    """Of the processor, the least of two."""
    found = []
    for _ in range(2):
        start = time.process_time()
        function(text)
        found.append(time.process_time() - start)
    return min(found)
