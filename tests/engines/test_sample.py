"""A sample of `make engines` that needs no DeepSpeed: three engines, the two kinds of routing, and a resume."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from expert_condenser.errors import TrainingError
from expert_condenser.training.engines.support import check_checkpoint
from expert_condenser.training.folder import check_same_run
from expert_condenser.training.recipe import Recipe
from expert_condenser.training.record import RunRecord
from expert_condenser.training.sft_options import TrainerConfig
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
    if engine == "ep":
        pytest.importorskip("transformers.distributed.expert_parallel", reason="needs transformers 5.23")
    changed = bench.case(engine, "olmoe", "condenser", "control", control="counts of one process")
    bench.run(engine, [*(bench.case(engine, "olmoe", method) for method in CASES[engine]), changed])
    if engine == "ddp":
        bench.run(engine, [bench.case(engine, "olmoe", "condenser", "bias", control="another bias on one rank")])
        assert "every process has the same selection bias" in bench.refused(engine, "bias")
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


@pytest.mark.parametrize(
    ("processes", "batch", "accumulation", "message"),
    [
        (2, 2, 2, None),
        (4, 1, 2, None),
        (1, 2, 4, None),
        (1, 4, 1, "8 = 1 processes x 4 x 2 accumulated; asked for 4 = 1 x 4 x 1"),
        (2, 4, 2, "asked for 16 = 2 x 4 x 2"),
    ],
)
def test_the_rows_of_a_step_stay(monkeypatch, processes, batch, accumulation, message):
    given = {"data": "rows.jsonl", "output_dir": "run", "method": "sft", "use_cpu": True, "bf16": False}

    def recipe(batch, accumulation):
        numbers = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
        return Recipe.of(**given, **numbers)

    record = replace(RunRecord.begin("sft", recipe(4, 2).flat()), processes=1)
    monkeypatch.setattr(TrainerConfig, "world_size", processes)
    if message is None:
        check_same_run(record, recipe(batch, accumulation))
        with pytest.raises(TrainingError, match="per_device_train_batch_size: 4 there"):
            check_same_run(replace(record, processes=None), recipe(batch, accumulation))  # of an earlier release
    else:
        with pytest.raises(TrainingError, match=message):
            check_same_run(record, recipe(batch, accumulation))


def test_what_deepspeed_wrote_is_refused_elsewhere(tmp_path):
    (tmp_path / "global_step5").mkdir()
    (tmp_path / "global_step5" / "zero_pp_rank_0_mp_rank_00_optim_states.pt").touch()
    arguments = SimpleNamespace(deepspeed_plugin=None, fsdp=None, world_size=1)
    with pytest.raises(TrainingError, match="by DeepSpeed in 1 processes, and here are 1 of one_process"):
        check_checkpoint(tmp_path, arguments)
    zero = SimpleNamespace(zero_stage=3, deepspeed_config={})
    check_checkpoint(tmp_path, SimpleNamespace(deepspeed_plugin=zero, fsdp=None, world_size=1))
    with pytest.raises(TrainingError, match="here are 2 of zero3"):
        check_checkpoint(tmp_path, SimpleNamespace(deepspeed_plugin=zero, fsdp=None, world_size=2))


def test_the_slurm_script_is_bash():
    path = Path(__file__).parents[2] / "recipes" / "slurm" / "train.sh"
    assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0
    broken = path.read_text().replace("\nfi\n", "\n")
    assert subprocess.run(["bash", "-n"], input=broken, text=True, stderr=subprocess.PIPE, check=False).returncode


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
