r"""Tags, bold answers, how sure a model is, and answers in other languages."""

import pytest

from expert_condenser.evaluation.answers import ANSWER, LATEX, LETTER, NUMBER, SOLUTION, TRUTH

TAGS = [
    (LETTER, "<answer>B</answer>", "B"),
    (LETTER, "<answer> (B) </answer>", "B"),
    (LETTER, "<think>A or C, C</think>\n<answer>B</answer>", "B"),
    (LETTER, "<answer>The answer is (B).</answer>", "B"),
    (LETTER, "<final_answer>B</final_answer> C", "B"),
    (NUMBER, "<answer>24</answer> took 3 steps", "24"),
    (NUMBER, "In 3 steps: <answer>24", "24"),
    (NUMBER, "<answer>24 pens in 4 boxes</answer>", "24"),
    (NUMBER, "<answer>\\boxed{24}</answer>", "24"),
    (NUMBER, "I write <answer> tags: <answer>24</answer> 5", "24"),
    (NUMBER, "<answer>23</answer> no, <answer>24</answer> 5", "24"),
    (NUMBER, "<answer></answer> 5", "5"),
    (TRUTH, "<answer>true</answer>, not false", "true"),
    (SOLUTION, "<answer>solution1</answer> since solution2 is silly", "solution1"),
    (LATEX, "<answer>a + b</answer>", "a+b"),
]
BOLD = [
    (NUMBER, "**Final Answer:** There are **24 pens** in 4 boxes", "24"),
    (NUMBER, "**Final Answer**: There are **24** pens in 4 boxes", "24"),
    (NUMBER, "**Final Answer:** There are 24 pens in 4 boxes", "24"),
    (NUMBER, "Final Answer: **24 pens** in 4 boxes", "24"),
    (NUMBER, "**Answer:** Ann needs **24 pens** for 4 boxes", "24"),
    (NUMBER, "The answer is that Ann needs **24 pens** for 4 boxes", "24"),
    (NUMBER, "**Answer:** it is not **5** but 7", "7"),
    (NUMBER, "**Answer:** Tom has **3 pens** and **4 boxes**", None),
    (NUMBER, "There are **24 pens** in 4 boxes.", "24"),
    (NUMBER, "There are 24 pens in 4 boxes.", "4"),
    (NUMBER, "There are __24 pens__ in 4 boxes.", "24"),
    (NUMBER, "6 pens in a box.\nSo it is **24** (4 × 6).", "24"),  # noqa: RUF001
    (NUMBER, "So it is **24** = 4 × 6.", "24"),  # noqa: RUF001
    (NUMBER, "**24 pens** in all. That is 6 in each of 4 boxes.", "24"),
    (NUMBER, "**4 boxes** hold 6 each. There are **24 pens** in 4 boxes.", "24"),
    (NUMBER, "There are **6 × 4 = 24 pens** in 4 boxes.", "24"),  # noqa: RUF001
    (NUMBER, "<|channel|>final<|message|>There are **24 pens** in 4 boxes.<|return|>", "24"),
    (NUMBER, "There are **24 pens** in 4 boxes.\n**Confidence:** 95%", "24"),
    (NUMBER, "There are 24 pens.\nConfidence: **95%**", "24"),
    (NUMBER, "There are **24 pens** in **4 boxes** of 6.", "6"),
    (NUMBER, "**Step 2:** 4 boxes hold 6", "6"),
    (NUMBER, "**Step 2**: 4 boxes hold 6", "6"),
    (NUMBER, "In **3 days** she has 4 × 6 = 24", "24"),  # noqa: RUF001
    (NUMBER, "It is not **5** but 24", "24"),
    (NUMBER, "There are **5 pens** in 4 boxes.\nSo 24 pens.", "24"),
    (NUMBER, "__24__", "24"),
    (NUMBER, "_24_", "24"),
    (NUMBER, "x_1 + y_1 = 24", "24"),
    (LETTER, "**Answer:** I would choose **B** over C", "B"),
    (LETTER, "**Answer:** Ann is **very** sure of C", None),
]
CONFIDENCE = [
    (NUMBER, "24\nConfidence: 95%", "24"),
    (NUMBER, "The answer is 24. Confidence: 95%", "24"),
    (NUMBER, "So 24 pens. Confidence: 95%", "24"),
    (NUMBER, "So 24 pens (confidence: 0.95)", "24"),
    (NUMBER, "So 24 pens. I am 95% sure.", "24"),
    (NUMBER, "So 24 pens. I'm about 95% confident", "24"),
    (NUMBER, "24\n**Confidence:** 95%", "24"),
    (NUMBER, "24\nConfidence level: 9/10", "24"),
    (NUMBER, "24. My confidence is 90%.", "24"),
    (NUMBER, "24, with 95% confidence", "24"),
    (NUMBER, "24。置信度：95%", "24"),  # noqa: RUF001
    (NUMBER, '{"answer": 24, "confidence": 95}', "24"),
    (NUMBER, '{"confidence": "95%", "answer": "24"}', "24"),
    (LETTER, '{"answer": "B", "confidence": 0.95}', "B"),
    (LATEX, "So $x$. Confidence: 95%", "x"),
    (NUMBER, "Guess: 24\nProbability: 0.8", "24"),
    (NUMBER, "Guess: 24 pens in 4 boxes\n**Probability:** 80%", "24"),
    (NUMBER, '{"guess": 24, "probability": 0.8}', "24"),
    (NUMBER, "My answer: 24\nProbability that it is right: **0.8**", "24"),
    (NUMBER, "4 of 5 are red.\nProbability: 0.8", "0.8"),
    (NUMBER, "Probability: 0.8", "0.8"),
    (NUMBER, "The confidence level is 95%", "95"),
    (NUMBER, "Confidence: 95%", "95"),
    (NUMBER, "They took a 95% confidence interval.", "95"),
]
LANGUAGES = [
    (NUMBER, "答案是24。", "24"),
    (NUMBER, "3+21=24，所以答案是24。共用2步", "24"),  # noqa: RUF001
    (NUMBER, "答案是24，因为6乘4。", "24"),  # noqa: RUF001
    (NUMBER, "最终答案为 24 元。共4盒", "24"),
    (NUMBER, "答案：\\boxed{24}", "24"),  # noqa: RUF001
    (NUMBER, "总共有２４支笔", "24"),
    (NUMBER, "6 × 4 = 24。", "24"),  # noqa: RUF001
    (LETTER, "答案：B", "B"),  # noqa: RUF001
    (LETTER, "答案是（B）。", "B"),  # noqa: RUF001
    (LETTER, "所以选B", "B"),
    (LETTER, "选项A不对，答案为D", "D"),  # noqa: RUF001
    (TRUTH, "答案是 true", "true"),
    (ANSWER, "答案：answer2", "answer2"),  # noqa: RUF001
    (NUMBER, "答えは24です。4箱", "24"),
    (NUMBER, "정답은 24입니다. 상자 4개", "24"),
    (NUMBER, "Ответ: 24", "24"),
    (NUMBER, "Ответ — 24 ручки, в 4 коробках", "24"),
    (NUMBER, "La respuesta es 24", "24"),
    (NUMBER, "La respuesta correcta es 24, de 4 cajas", "24"),
    (LETTER, "La respuesta correcta es la (B), no la (C).", "B"),
    (NUMBER, "Die Antwort ist 24, in 4 Kisten", "24"),
    (NUMBER, "Die richtige Antwort lautet: 24 Stifte in 4 Kisten", "24"),
    (NUMBER, "La réponse est 24", "24"),
    (NUMBER, "Réponse : 24 stylos pour 4", "24"),
    (NUMBER, "La risposta è 24 per 4", "24"),
    (NUMBER, "A resposta é 24 para 4", "24"),
    (NUMBER, "Het antwoord is 24 in 4", "24"),
    (NUMBER, "Cevap: 24, 4 kutu", None),
    (NUMBER, "Die Antwort ist 24,5", None),
    (NUMBER, "Antwortet 24 mal, 4", "4"),
]


@pytest.mark.parametrize(("kind", "text", "answer"), TAGS + BOLD + CONFIDENCE + LANGUAGES)
def test_the_answer(kind, text, answer):
    assert kind.extract(text) == answer
    other = text.replace("24", "25").replace("\uff14", "5").replace("B", "D")
    assert (kind.extract(other) == answer) == (answer not in ("24", "B"))
