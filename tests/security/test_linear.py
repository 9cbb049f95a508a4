"""Reading an answer out of a text takes time in proportion to its length, whatever a model wrote.

The suite tries the texts that take longest; `make fuzz` tries all of them at 100 kB.
"""

import os
import re
import time

import pytest
import torch
from safetensors.torch import save

from expert_condenser.checkpoint.config import check_adapter
from expert_condenser.data.formats import CHOICE, MATH_ANSWER, without_calculator
from expert_condenser.errors import CheckpointError
from expert_condenser.evaluation.answers import ANSWER, LATEX, LETTER, NUMBER, TRUTH, VERBATIM, algebra
from tests.security.adversarial import SAMPLE, UNITS, seconds, text_of

KINDS = {kind.name: kind for kind in (NUMBER, LATEX, LETTER, TRUTH, ANSWER, VERBATIM)}
WHOLE = "FUZZ" in os.environ
LENGTH = 50_000 if WHOLE else 4_000
MOST, NOISE = 3.0, 0.05
"""Times as long for a text of twice the length; and seconds below which a time says nothing."""


def grows(function, unit, length=LENGTH):
    """How many times longer the text of twice the length takes; 2 for what is linear, 4 for what is not."""
    one, two = (seconds(function, text_of(unit, size)) for size in (length, 2 * length))
    return two / max(one, NOISE / 2) if two > NOISE else 0.0


def test_control_a_careless_pattern_is_found():
    careless = re.compile(r"(?:\d+,)*\d{3}(?!\d)$")
    assert grows(careless.search, "12,", 4_000) > MOST  # 100 kB would take it minutes
    assert grows(re.compile(r"\d+,").findall, "12,", 4_000) < MOST


@pytest.mark.parametrize("kind", KINDS)
def test_reading_an_answer_is_linear(kind):
    found = {unit: grows(KINDS[kind].extract, unit) for unit in (UNITS if WHOLE else SAMPLE)}
    assert {unit: round(times, 1) for unit, times in found.items() if times > MOST} == {}


@pytest.mark.parametrize("read", [without_calculator, CHOICE.search, MATH_ANSWER.search])
def test_patterns_over_rows_are_linear(read):
    found = {unit: grows(read, unit) for unit in (*SAMPLE, "<<", "<<1", ">>", "1", "1,", "$", "answer ")}
    assert {unit: round(times, 1) for unit, times in found.items() if times > MOST} == {}


def test_a_long_expression_is_not_asked_of_algebra():
    """What it takes of shorter ones is limited by the clock: tests/evaluation/answers."""
    start = time.process_time()
    assert not algebra.equal("(" * 100_000, "1")
    assert time.process_time() - start < 1


@pytest.mark.parametrize("field", ["target_modules", "exclude_modules", "rank_pattern"])
def test_an_adapter_s_patterns_are_bounded(tmp_path, field):
    """PEFT matches them with the names of all modules, in a way that takes exponential time where a group repeats."""
    (tmp_path / "adapter_model.safetensors").write_bytes(save({"a": torch.zeros(8, 4)}))
    base = {"base_model_name_or_path": "base", "r": 4}
    for pattern in (
        r".*\.(q_proj|v_proj)",
        r"model\.layers\.\d+\.mlp\.experts\.\d+\..*_proj",
        "q_proj",
        r"(.*\.)?q_proj",
    ):
        check_adapter(tmp_path, {**base, field: {pattern: 4} if field == "rank_pattern" else pattern})
    for pattern in (r"(\w+\.?)+X", r"(a|a)*b", r"(a{1,9}){1,9}b", ".*.*.*.*.*.*x"):
        with pytest.raises(CheckpointError, match=f"{field} names modules, with up to 5 repetitions"):
            check_adapter(tmp_path, {**base, field: {pattern: 4} if field == "rank_pattern" else pattern})
