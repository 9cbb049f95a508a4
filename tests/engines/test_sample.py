"""A sample of `make engines` that needs no DeepSpeed: three engines, the two kinds of routing, and a resume."""

import json

import pytest

from tests.engines.comparison import Bench, slug
from tests.engines.table import BEGIN, COLUMNS, PAGE, RESULTS, ROWS, reason, table

CASES = {"ddp": ("sft", "condenser"), "fsdp2": ("condenser", "esft_gate"), "ep": ("condenser",)}
EVERY = ("sft", "condenser", "esft_gate")


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    made = Bench(tmp_path_factory.mktemp("engines"))
    made.run("one_process", [made.case("one_process", "olmoe", method) for method in EVERY])
    return made


@pytest.mark.slow
@pytest.mark.parametrize("engine", CASES)
def test_the_run_equals_that_of_one_process(bench, engine):
    changed = bench.case(engine, "olmoe", "condenser", "control", control="counts of one process")
    bench.run(engine, [*(bench.case(engine, "olmoe", method) for method in CASES[engine]), changed])
    for method in CASES[engine]:
        bench.assert_equal(engine, slug("olmoe", method))
    bench.assert_differs(engine, "control", slug("olmoe", "condenser"))


@pytest.mark.slow
def test_two_processes_begin_and_one_goes_on(bench):
    began = bench.case("fsdp2", "olmoe", "condenser", "cut", stop=("condense", 8))
    bench.run("fsdp2", [began])
    again = bench.case("one_process", "olmoe", "condenser", changes={"resume": True})
    bench.run("one_process", [{**again, "folder": began["folder"]}])
    bench.assert_equal("fsdp2", "cut", slug("olmoe", "condenser"))


@pytest.mark.slow
def test_the_rows_of_a_step_stay(bench):
    began = bench.case("one_process", "olmoe", "sft", "halved", stop=("train", 8))
    bench.run("one_process", [began])
    again = bench.case("one_process", "olmoe", "sft", changes={"resume": True, "gradient_accumulation_steps": 1})
    bench.run("one_process", [{**again, "folder": began["folder"]}])
    assert "8 = 1 processes x 4 x 2 accumulated; asked for 4 = 1 x 4 x 1" in bench.refused("one_process", "halved")


def test_the_table_is_that_of_the_results():
    results = json.loads(RESULTS.read_text())
    assert f"{BEGIN}\n{table(results)}\n" in PAGE.read_text(), "run make engines"
    trained = {(f"{f}: {m}", e) for f, m in ROWS for e in COLUMNS if reason(m, e) is None}
    assert trained == {(row, engine) for row, engines in results.items() for engine in engines}


def test_refusals():
    assert reason("sft", "ep") is None
    assert "PEFT adapts weights that are whole" in reason("sft, lora", "ep")
    assert "works on whole weights, and zero3 splits them" in reason("smt", "zero3")
    assert reason("smt", "zero2") is None
