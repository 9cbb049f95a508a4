"""The plan against a real step, measured by torch's own tracker; all of them: `python -m tests.planning.measured`."""

import pytest

from tests.planning.measured import CASES, LASTING, RESIDENT, Case, in_folder, measure, planned, resident_growth

FAST = (
    Case("olmoe", "condenser", length=128, rows=2, checkpointing=True),
    Case("qwen3_moe", "sft", length=128, rows=2, options={"lora": "attention+experts", "lora_r": 4}),
    Case("deepseek_v2", "esft_gate", length=128, rows=2),
)
MEMORY = 500e6


def check(case):
    plan, found = in_folder(planned, case), in_folder(measure, case)
    assert {item: plan[item] for item in LASTING} == {item: found[item] for item in LASTING}
    assert plan["total"] == pytest.approx(found["total"], rel=0.02)
    assert plan["step"] == pytest.approx(found["step"], rel=0.05)
    return found


@pytest.mark.parametrize("case", FAST, ids=lambda case: case.name)
def test_the_plan_is_what_a_step_takes(case):
    check(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name}, tile {case.tile}")
def test_the_plan_of_every_case_is_what_a_step_takes(case):
    check(case)


def test_control_another_training_takes_something_else():
    plain = Case("olmoe", "sft", length=128, rows=2)
    plan = in_folder(planned, plain)
    for changed in (
        Case("olmoe", "sft", length=128, rows=2, checkpointing=True),
        Case("olmoe", "sft", length=256, rows=2),
        Case("olmoe", "sft", length=128, rows=2, options={"experts_implementation": "grouped_mm"}),
    ):
        assert abs(in_folder(planned, changed)["step"] / plan["step"] - 1) > 0.09
    esft = in_folder(planned, Case("olmoe", "esft_gate", length=128, rows=2))
    assert esft["gradients"] < 0.3 * plan["gradients"]


@pytest.mark.slow
@pytest.mark.parametrize("case", RESIDENT, ids=lambda case: case.name)
def test_resident_memory_grows_as_planned(case):
    plan, grown = in_folder(planned, case)["total"], resident_growth(case)
    assert plan > MEMORY
    assert plan == pytest.approx(grown, rel=0.2)
