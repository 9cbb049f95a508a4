"""`one_schedule`: the rates of two phases are those of one training of their length."""

import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from expert_condenser.errors import TrainingError
from expert_condenser.training.run import train
from expert_condenser.training.schedule import continued
from tests.runs import assert_identical, config, interrupted, log_of, make_base

SCHEDULE = {"num_train_epochs": 2.0, "warmup_steps": 3.0}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


def rates(folder):
    return [entry["learning_rate"] for entry in log_of(folder)]


def test_the_rates_are_those_of_one_training(base, tmp_path):
    train(config(base, tmp_path / "one", one_schedule=True, **SCHEDULE))
    train(config(base, tmp_path / "two", **SCHEDULE))
    train(config(base, tmp_path / "sft", method="sft", **SCHEDULE))
    assert rates(tmp_path / "one") == rates(tmp_path / "sft")
    assert rates(tmp_path / "two") != rates(tmp_path / "sft")
    assert rates(tmp_path / "two")[4] == 0.0, "control: the second phase warms up again"


def test_a_resumed_run_goes_on_in_the_schedule(base, tmp_path):
    options = {**SCHEDULE, "one_schedule": True, "condenser_rows_only": True}
    train(config(base, tmp_path / "whole", **options))
    interrupted(base, tmp_path / "cut", "condense", "on_step_begin", 2, **options)
    train(config(base, tmp_path / "cut", resume=True, **options))
    assert_identical(tmp_path / "cut", tmp_path / "whole")


def test_a_schedule_that_is_no_function_of_the_step():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(TrainingError, match="ReduceLROnPlateau is none"):
        continued(ReduceLROnPlateau(optimizer), optimizer, 3)
