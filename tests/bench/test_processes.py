"""A training step in several processes, beside one: what the report is of, and what is refused."""

import json
from dataclasses import replace

import pytest
import torch

from expert_condenser.bench.processes import compare_processes
from expert_condenser.bench.shapes import SHAPES
from expert_condenser.bench.workloads import Setting
from expert_condenser.cli.main import main
from expert_condenser.errors import BenchmarkError
from tests.short_run import ENVIRONMENT

WORDS = ["bench", "train", "--shape", "testbed", "--tokens", "64", "--layers", "1", "--device", "cpu"]


@pytest.mark.slow
def test_the_report_counts_the_tokens_of_all(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", ENVIRONMENT["PYTHONPATH"])
    file = tmp_path / "report.json"
    assert main([*WORDS, "--processes", "2", "--threads", "1", "--rounds", "3", "--json", str(file)]) == 0
    report = json.loads(file.read_text())
    assert (report["processes"], report["threads"], report["arm"], report["rounds"]) == (2, 1, "condenser", 3)
    one, several = report["seconds"]["one_process"], report["seconds"]["several"]
    assert len(one) == len(several) == 3
    assert report["one_process_tokens_per_s"] == pytest.approx(64 / sorted(one)[1])
    assert report["tokens_per_s"] == pytest.approx(2 * 64 / sorted(several)[1])
    assert report["ratio"] == pytest.approx(sorted(2 * a / b for a, b in zip(one, several, strict=True))[1])


def test_one_process_is_no_comparison():
    setting = Setting(SHAPES["testbed"], "cpu", torch.float32, "eager")
    with pytest.raises(BenchmarkError, match="two CPU processes or more"):
        compare_processes("sft", setting, processes=1, threads=1, rounds=2)
    with pytest.raises(BenchmarkError, match="got 2 on cuda"):
        compare_processes("sft", replace(setting, device="cuda"), processes=2, threads=1, rounds=2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--processes", "1"], "at least 2"),
        (["--processes", "2", "--arms", "sft,condenser"], "one arm and no --sweep"),
        (["--processes", "2", "--sweep", "tokens=1,2"], "one arm and no --sweep"),
    ],
)
def test_what_does_not_go_with_it(words, message, capsys):
    assert main([*WORDS, *words]) == 2
    assert message in capsys.readouterr().err
