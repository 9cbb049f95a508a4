"""What transformers, TRL and torch refuse is an error of ours that says their words, and no traceback."""

import pytest
import torch

from expert_condenser.cli.main import main
from expert_condenser.errors import DataError, TrainingError
from expert_condenser.training.recipe import Recipe
from expert_condenser.training.refusals import refusals_named
from tests.runs import make_base


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("lr_scheduler_type", "nope", "nope is not a valid SchedulerType"),
        ("lr_scheduler_kwargs", '{"a": 1}', "unexpected keyword argument 'a'"),
        ("report_to", "wandb", "requires wandb to be installed"),
        ("warmup_steps", "-1", "Expected value warmup_steps >= 0"),
    ],
)
def test_an_option_that_is_refused_further_down(base, tmp_path, capsys, name, value, said):
    words = ["--model", base / "model", "--data", base / "rows.jsonl", "--output_dir", tmp_path / "run"]
    words += ["--method", "sft", "--use_cpu", "true", "--bf16", "false", "--max_steps", "1", f"--{name}", value]
    assert main(["train", *map(str, words)]) == 2
    error = capsys.readouterr().err
    assert "condenser train: the options must be ones that the Trainer accepts, and it says: " in error
    assert said in error
    assert "Traceback" not in error


def test_our_own_errors_stay_and_faults_of_other_kinds_pass():
    with pytest.raises(DataError, match=r"^ours$"), refusals_named():
        raise DataError("ours")
    with pytest.raises(ZeroDivisionError), refusals_named():
        raise ZeroDivisionError
    with pytest.raises(TrainingError, match=r"says: two lines$"), refusals_named():
        raise ValueError("two\n  lines")


@pytest.mark.parametrize(("accelerator", "use_cpu", "expected"), [(False, False, False), (False, True, True)])
def test_bf16_is_off_by_default_where_there_is_no_accelerator(monkeypatch, accelerator, use_cpu, expected):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: accelerator)
    assert Recipe.of(data="x.jsonl", output_dir="x", use_cpu=use_cpu).trainer.bf16 is expected
