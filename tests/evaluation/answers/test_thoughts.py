r"""What comes before the end of thoughts is no answer, nor is an answer cut inside its thoughts."""

import pytest

from expert_condenser.evaluation.answers import LATEX, LETTER, NUMBER, SOLUTION, TRUTH, VERBATIM
from expert_condenser.evaluation.answers.thoughts import FORMATS, opened_in, said

ANALYSIS = "<|channel|>analysis<|message|>2+2=4, so 4?<|end|><|start|>assistant"
FINAL = f"{ANALYSIS}<|channel|>final<|message|>"
CALL = '<|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a": 4}<|call|>'
CHANNELS = [
    (NUMBER, f"{FINAL}24", "24"),
    (NUMBER, f"{FINAL}24<|return|>", "24"),
    (LETTER, f"{FINAL}**B**", "B"),
    (TRUTH, f"{FINAL}True", "true"),
    (VERBATIM, f"{FINAL}24", "24"),
    (LATEX, f"{FINAL}$x+1$", "x+1"),
    (NUMBER, f"{FINAL}I cannot say.", None),
    (NUMBER, "<|channel|>final<|message|>24", "24"),
    (NUMBER, f'{ANALYSIS}<|channel|>final <|constrain|>json<|message|>{{"answer": 24}}', "24"),
    (NUMBER, "<|channel|>analysis<|message|>2+2=4", None),
    (NUMBER, "<|channel|>analysis<|message|>\\boxed{4}<|end|>", None),
    (NUMBER, "<|channel|>analysis", None),
    (NUMBER, f"<|channel|>analysis<|message|>x<|end|>{CALL}", None),
    (NUMBER, f"{FINAL}24<|end|><|start|>user<|message|>3?<|end|>{FINAL}5", "24"),
    (NUMBER, f"{ANALYSIS}<|end|><|start|>user<|message|>3?<|end|><|start|>assistant{FINAL}5", None),
]
STRIPPED = [
    (NUMBER, "analysis2+2=4 assistantfinal24", "24"),
    (NUMBER, "analysisWe need 4.assistantfinal24", "24"),
    (NUMBER, "analysis We need 4.assistantfinal24", "24"),
    (NUMBER, "analysis 3assistantcommentary to=functions.fassistantanalysis 4assistantfinal\\boxed{24}", "24"),
    (VERBATIM, "analysisXassistantfinal24", "24"),
    (SOLUTION, "analysissolution2assistantfinalthe correct answer is solution1", "solution1"),
    (NUMBER, "analysisWe need 4", None),
    (NUMBER, "final24", "24"),
    (NUMBER, "analysis: 4 pens", "4"),
    (NUMBER, "Analysis: 4 pens", "4"),
    (NUMBER, "finally 24", "24"),
    (NUMBER, "Final answer: 24", "24"),
]
THOUGHTS = [
    (NUMBER, "<think>a</think>24", "24"),
    (NUMBER, "<think>Question: what?\nQuestion: 4?</think>24", "24"),
    (NUMBER, "<think>\\boxed{4}", None),
    (NUMBER, "  <think>\n\\boxed{4}\n", None),
    (NUMBER, "[THINK]\\boxed{4}[/THINK]24", "24"),
    (NUMBER, "[THINK]\\boxed{4}[/THINK]", None),
    (NUMBER, "[THINK]\\boxed{4}[/THINK]I cannot say.", None),
    (NUMBER, "[THINK]3[/THINK]The answer is 5.\n[THINK]4[/THINK]Done.", "5"),
    (NUMBER, "The answer is 5.\n<think>But 6?", "5"),
    (NUMBER, "<|channel>thought\n4<channel|>24", "24"),
    (NUMBER, "<|START_THINKING|>4<|END_THINKING|><|START_RESPONSE|>24<|END_RESPONSE|>", "24"),
    (LETTER, "<|START_THINKING|>A<|END_THINKING|><|START_RESPONSE|>B<|END_RESPONSE|>", "B"),
    (NUMBER, "<|think|>7<|end|><|begin|>assistant<|content|>24<|end|>", "24"),
    (NUMBER, "<|begin|>assistant<|think|>7<|end|><|begin|>assistant<|content|>24<|end|>", "24"),
    (NUMBER, "<|think|>7<|end|><|begin|>assistant<|content|>I cannot say.<|end|>", None),
    (NUMBER, "<|think|>7<|end|>", None),
    (NUMBER, "<|begin|>assistant<|content|>24<|end|>", "24"),
    (NUMBER, "24<|end|>\n<|user|>\nAdd 3.<|end|>", "24"),
    (NUMBER, "<mm:think>7</mm:think>I cannot say.", None),
    (NUMBER, "<mm:think>7", None),
    (NUMBER, "<think:opensource>7</think:opensource>I cannot say.", None),
    (NUMBER, "<think:opensource>7", None),
    (NUMBER, "<|channel>thought\n7<channel|>I cannot say.", None),
    (NUMBER, "<|begin_of_box|>24<|end_of_box|>", "24"),
    (NUMBER, "I use a <think> tag. The answer is 24.", "24"),
    (VERBATIM, "<think>4</think>\n24", "24"),
]
RUN_ON = [
    (NUMBER, "<think>a</think>\\boxed{24}\nuser\nAdd 3.\nassistant\n<think>b</think>\\boxed{27}", "24"),
    (NUMBER, "a</think>\\boxed{24}<|im_end|>\n<|im_start|>user\nb<|im_end|>\n<think>b</think>\\boxed{27}", "24"),
    (NUMBER, "<think>4<|im_end|>\n<|im_start|>user\nb<|im_end|>\n<think>b</think>\\boxed{27}", None),
    (NUMBER, "\\boxed{24}<|im_end|>\n<|im_start|>assistant\nb</think>\\boxed{27}", "24"),
]


@pytest.mark.parametrize(("kind", "text", "answer"), CHANNELS + STRIPPED + THOUGHTS + RUN_ON)
def test_what_is_said_answers(kind, text, answer):
    assert kind.extract(text) == answer


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.opening)
def test_every_format(form):
    for text in (f"{form.opening}\\boxed{{4}}{form.closing}\\boxed{{24}}", f"\\boxed{{4}}{form.closing}\\boxed{{24}}"):
        assert NUMBER.extract(text) == "24"
    assert NUMBER.extract(f"{form.opening}\\boxed{{4}}") is None
    assert NUMBER.extract(f"{form.opening}\\boxed{{4}}{form.closing}") == ("4" if form.opening == "<think>" else None)


def test_parts():
    assert said("<think>a</think>b") == ["b", "<think>a"]
    assert said("[THINK]a[/THINK]b") == ["b"]
    assert said("[THINK]a[/THINK] ") == said("[THINK]a") == said("") == []


@pytest.mark.parametrize(
    ("prompt", "opening"),
    [
        ("<|im_start|>assistant\n<think>\n", "<think>"),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", ""),
        ("<|start|>assistant", ""),
        ("<|start|>assistant<|channel|>analysis<|message|>", "<|channel|>analysis<|message|>"),
        ("<|turn>model\n<|channel>thought\n", "<|channel>thought"),
        ("What is <think>?", ""),
        ("", ""),
    ],
)
def test_a_prompt_may_open_the_thoughts(prompt, opening):
    assert opened_in(prompt) == opening
    assert (NUMBER.extract(f"{opening}\\boxed{{4}}") is None) == bool(opening)
