from pathlib import Path

import pytest

from expert_condenser.evaluation.answers import NUMBER
from expert_condenser.evaluation.answers.number import exact
from tests.samples import stated_answers

FILES = {"gsm8k": "gsm8k", "svamp": "SVAMP", "addsub": "AddSub", "singleeq": "SingleEq", "multiarith": "MultiArith"}
STATED = stated_answers(FILES, Path(__file__).parent / "stated.json")

NONE = [
    "",
    "   \n",
    "I do not know.",
    "Let the marked price of the watch be x.",
    "The answer is 2-3 days.",
    "The answer is between 2 and 3.",
    "The answer is 2 to 3 hours.",
    "The answer is 110 tomatoes and 32 eggplants.",
    "The answer is 5 or 6.",
    "The answer is 1 hour 30 minutes.",
    "It takes 1 hour and 30 minutes.",
    "\\boxed{1, 2}",
    "#### 3 and 4",
    "They meet at 3:30.",
    "The answer is 3:2.",
    "It takes 2-3 days.",
    "The answer is 5/0.",
    "\\boxed{2\\sqrt{3}}",
    "The answer is 2\\pi.",
    "9" * 5000,
    "It is COVID.",
    "The total is \\boxed{}",
    "The answer is 3x^2.",
    "\\boxed{3^2}",
    "The answer is 1 234.",
    "So it is 1 234.",
    "See step 2.",
    "x2 and y",
]
PLACES = [
    ("\\boxed{5}", "5"),
    ("<think>3 + 4 = 7</think>\\boxed{7}", "7"),
    ("First \\boxed{3}, no: \\boxed{4}.", "4"),
    ("\\boxed{4} because 2 \\cdot 2 = 4. The answer is 9.", "4"),
    ("\\boxed{\\text{about } 12 \\text{ km}}", "12"),
    ("\\boxed{\\frac{3}{4}}", "3/4"),
    ("\\boxed{\\dfrac{3}{4}}", "3/4"),
    ("\\boxed{\\frac34}", "3/4"),
    ("\\boxed{-\\frac{3}{4}}", "-3/4"),
    ("\\boxed{1\\frac{1}{2}}", "1 1/2"),
    ("\\boxed{x = 5}", "5"),
    ("\\boxed{\\boxed{8}}", "8"),
    ("$\\boxed{\\$1{,}234.50}$", "1234.50"),
    ("\\boxed{50\\%}", "50"),
    ("\\boxed{90^\\circ}", "90"),
    ("\\boxed{D}. The answer is 12.", "12"),
    ("So 3.\n#### 18", "18"),
    ("#### - 7", "-7"),
    ("36 apples\n#### 12 - 7", None),
    ("#### 17\n#### 18", "18"),
    ("#### $70,000", "70000"),
    ("#### 18 dollars", "18"),
    ("#### Step 1: add 3 and 4\nThe answer is 7.", "7"),
    ("#### 1. Add\nThe answer is 7.\n#### 2. Check", "7"),
    ("The answer is 576.", "576"),
    ("the answer is: 5", "5"),
    ("Final answer: 5", "5"),
    ("**Answer:** 5 apples", "5"),
    ("### Final Answer\n\n$5$", "5"),
    ("The answer is\n\\[\n5\n\\]", "5"),
    ("The final answer (in dollars) is $1,520.", "1520"),
    ("The answer to the question is therefore 12 kids, since 3 * 4 = 12.", "12"),
    ("The answer is approximately 3.5 hours.", "3.5"),
    ("The answer is that she has 5 apples left.", "5"),
    ("The answer is x = 5.", "5"),
    ("The answer is 62 - 39 = 23.", "23"),
    ("The answer is 43 - (-51) = 94.", "94"),
    ("The answer is 5 (2 from Ann and 3 from Ben).", "5"),
    ("The answer is 5 out of 20.", "5"),
    ("The answer is 18 dollars for the 2 kids.", "18"),
    ("The answer is 0.7 of an inch.", "0.7"),
    ("The answer would be 12.", "12"),
    ("Final Answer: The final answer is $5$. I hope it is correct.", "5"),
    ("The answer is approx. 5", "5"),
    ("The answer is 2 * 3 = 6, so 6.", "6"),
    ("The answer is 20, which is 5 more than 15.", "20"),
    ("The answer is 0.75 (75%).", "0.75"),
    ("Answers: 12", "12"),
    ("She has 3 + 4 = 7", "7"),
    ("She has 3 and buys 4. So she has 7 apples.", "7"),
    ("Answer: She has 3 apples. She buys 4 more, which makes 7.", "7"),
    ("The answer is found by adding 3 to it. That gives 10.", "10"),
    ("The answer isn't 5, it is 7.", "7"),
    ("Ans: 5", "5"),
    ("Step 1 200 + 300 = 500", "500"),
    ("So he has 5 apples left (see step 2).", "5"),
    ("He has 5 apples after step 2.", "5"),
    ("He climbs 2 stairs and takes a step of 5", "5"),
]
LATER = [
    ("The answer is 5. Wait, that is wrong; the answer is 7.", "7"),
    ("The answer is 5. Wait, it is 7.", "7"),
    ("The answer is 5. Actually, it should be 7, as 3 + 4 = 7.", "7"),
    ("The answer is not 5 but 7.", "7"),
    ("The answer is 5. Wait, that's wrong. It should be 7.", "7"),
    ("The answer is 5. That is wrong. It should be at least 7.", "5"),
    ("The answer is 5. To check, it should be 3 + 2.", "5"),
    ("The answer is 20. I made an error above. The correct value is 25.", "25"),
    ("The answer is 20. The value is 25 less than 45.", "20"),
    ("The answer is not 5. The answer is 6.", "6"),
    ("The answer is 7. To check: 7 - 3 = 4.", "7"),
    ("<think>The answer is 5.</think>The answer is 6.", "6"),
    ("<think>The answer is 5.</think>", "5"),
    ("<think>The answer is 5.</think>Done.", "5"),
    ("a</think>The answer is 1</think>The answer is 2.", "2"),
    ("The answer is 5.\n\nQ: Tom has 8 pens and buys 9. How many?\nA: The answer is 17.", "5"),
    ("The answer is 5.\nQuestion: Tom has 8 pens.", "5"),
    ("The answer is 5. Q: Tom has 8 pens.", "5"),
    ("5\n\n### Instruction:\nAdd 3 and 9.", "5"),
    ("Question: how many are 2 pens and 3 pens?\nAnswer: 5", "5"),
    ("\nA: Ann has 2 pens. The answer is 2.\nHuman: and 3 more?", "2"),
]
FORMS = [
    ("-5", "-5"),
    ("\u22125", "-5"),
    ("The answer is -15.0.", "-15.0"),
    ("It falls to -$5", "-5"),
    ("It falls to $-5", "-5"),
    ("x = - 5", "-5"),
    ("\\boxed{- 5}", "-5"),
    ("\\boxed{-\\,5}", "-5"),
    ("\\boxed{-\\;1.5 \\text{ km}}", "-1.5"),
    ("\\boxed{- \\frac{3}{4}}", "-3/4"),
    ("\\boxed{\u2212 5}", "-5"),
    ("The answer is \u2212 5.", "-5"),
    ("Answer: \u2212 5", "-5"),
    ("#### \u2212 5", "-5"),
    ("The answer is \\(\u2212 5\\).", "-5"),
    ("The answer is $- 5$.", "-5"),
    ("So it is 7 \u2212 5 = 2", "2"),
    ("He has 10 apples \u2212 5 apples.", "5"),
    ("Answer:\n- 5 apples", "5"),
    ("The answer is negative 5.", "-5"),
    ("negative 5", "-5"),
    ("The answer is minus 5.", "-5"),
    ("The answer is minus $5.", "-5"),
    ("minus 5", "-5"),
    ("7 minus 5", "5"),
    ("The answer is 7 minus 5, or 7 - 5 = 2.", "2"),
    ("seven minus 5", "5"),
    ("No negative: 5", "5"),
    ("36 - 12", None),
    ("36 - 12 = 24", "24"),
    ("36 -12 = 24", "24"),
    ("36-12=24", "24"),
    ("(3) - 2 = 1", "1"),
    ("What is left of the -3 is 4.", "4"),
    ("It was COVID-19", None),
    ("a 5-pound bag", "5"),
    ("+15", "15"),
    ("1,234", "1234"),
    ("1,234,567.89", "1234567.89"),
    ("Rs. 1,23,456", "123456"),
    ("1'234", "1234"),
    ("CHF 1\u2019234\u2019567.50", "1234567.50"),
    ("5'10", "10"),
    ("It was '24", "24"),
    ("1_234", "1234"),
    ("\\boxed{12_345_678}", "12345678"),
    ("x_1 = 24", "24"),
    ("1\u00a0234", "1234"),
    ("The answer is 1\u202f234,50 \u20ac.", "1234.50"),
    ("1.234,50 \u20ac", "1234.50"),
    ("The answer is 1.234.567,89.", "1234567.89"),
    ("1 234,50 \u20ac", "1234.50"),
    ("1.234.567", "1234567"),
    ("1.234", "1.234"),
    ("24,5", "5"),
    ("0.500, 0.25", "0.25"),
    ("The answer is 1 234 567", "1234567"),
    ("The answer is 12 345 678.5 km.", "12345678.5"),
    ("He has $400 000 - $282 000 = $118 000.", "118000"),
    ("The answer is 1 234 567, as 1 + 1 234 566 is that.", "1234567"),
    ("The sum of 1 23 and 4567 is 8", "8"),
    ("1\\,234", "1234"),
    ("$1,234.50", "1234.50"),
    ("US$5", "5"),
    ("€3.50", "3.50"),
    ("5$", "5"),
    ("50%", "50"),
    ("3/4", "3/4"),
    ("480 / 30", "480/30"),
    ("1 1/2", "1 1/2"),
    ("2 and 1/2", "2 1/2"),
    ("2½", "2 1/2"),
    ("5km", "5"),
    ("5 km.", "5"),
    ("The area is 12 cm^2.", "12"),
    ("The answer is 12 cm^{2}.", "12"),
    ("\\boxed{12 \\text{ cm}^2}", "12"),
    ("\\boxed{12\\ \\mathrm{cm}^{2}}", "12"),
    ("5 m/s^2", "5"),
    ("\\boxed{5 \\text{ m/s}^2}", "5"),
    ("3 m^2 = 30000 cm^2", "30000"),
    ("10^2 = 100", "100"),
    ("3rd", "3"),
    (".5", ".5"),
    ("0.5.", "0.5"),
    ("1e3", "1e3"),
    ("2 \\times 10^3", "2e3"),
    ("2 x 10^{-3} m", "2e-3"),
    ("5.The end", "5"),
    ("* 12", "12"),
    ("- 12 pens", "12"),
    ("$5 - $3 = $2", "2"),
]


@pytest.mark.parametrize("text", NONE)
def test_no_number_is_stated(text):
    assert NUMBER.extract(text) is None


@pytest.mark.parametrize(("text", "number"), PLACES)
def test_where_the_number_stands(text, number):
    assert NUMBER.extract(text) == number


@pytest.mark.parametrize(("text", "number"), LATER)
def test_what_comes_later_or_too_late(text, number):
    assert NUMBER.extract(text) == number


@pytest.mark.parametrize(("text", "number"), FORMS)
def test_how_a_number_is_written(text, number):
    assert NUMBER.extract(text) == number


EQUAL = [
    ("5", "5"),
    ("-15.0", "-15"),
    ("15", "15.0"),
    ("3/4", "0.75"),
    ("1 1/2", "1.5"),
    ("-1 1/2", "-1.5"),
    ("1e3", "1000"),
    ("2e-3", "0.002"),
    (".5", "0.50"),
    ("1.83", "1.8333333333333335"),
    ("1.8333", "1.8333333333333335"),
    ("1.8333333333333333", "1.8333333333333335"),
    ("11/6", "1.8333333333333335"),
    ("66.67", "66.66666666666667"),
    ("0.17", "1/6"),
    ("0.33", "1/3"),
    ("0.13", "0.125"),
    ("-1.83", "-1.8333333333333335"),
    ("1e20", "100000000000000000000"),
    ("0", "-0"),
]
DIFFERENT = [
    ("5", "6"),
    ("5", "-5"),
    ("5", "5.1"),
    ("1.8", "1.8333333333333335"),
    ("2", "1.8333333333333335"),
    ("1.84", "1.8333333333333335"),
    ("0.08", "0.08333333333333333"),
    ("0.00", "0.004"),
    ("1000001", "1000000"),
    ("999999999", "999999998"),
    ("0.5", "50"),
    ("9.33", "9"),
    ("12.5", "12.54"),
    ("1.83", "-1.83"),
    ("1/3", "0.3"),
    ("5/0", "5"),
]


@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_equal_numbers(one, other):
    assert NUMBER.equal(one, other)
    assert NUMBER.equal(other, one)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_different_numbers(one, other):
    assert not NUMBER.equal(one, other)
    assert not NUMBER.equal(other, one)


def test_every_extracted_number_equals_itself_and_is_a_gold_answer():
    extracted = {number for _, number in PLACES + LATER + FORMS if number is not None}
    for number in extracted:
        assert NUMBER.equal(number, number)
        assert NUMBER.equal(number, exact(number))
        assert not NUMBER.equal(number, f"{number.split('/')[0].split()[0]}7")


@pytest.mark.parametrize(
    ("gold", "number"),
    [
        ("576.0", "576.0"),
        (" -15.0 ", "-15.0"),
        ("6,699", "6699"),
        ("$1,234.50", "1234.50"),
        ("50%", "50"),
        ("3/4", "3/4"),
    ],
)
def test_gold_numbers(gold, number):
    assert NUMBER.read_gold(gold) == number


@pytest.mark.parametrize("gold", ["", "A", "five", "5 or 6", "5 - 3", "5x", "1 2", "x = 5", "5/0", "--5", "nan"])
def test_what_is_no_gold_number(gold):
    assert NUMBER.read_gold(gold) is None


@pytest.mark.parametrize(("output", "states"), STATED.values(), ids=STATED)
def test_what_the_rationales_state(output, states):
    extracted = NUMBER.extract(output)
    assert extracted == states
    assert extracted is None or not NUMBER.equal(extracted, "7" + extracted)
