"""Every field of TRL's `SFTConfig` is passed on, set by the run, or refused with the reason."""

import os
from dataclasses import fields
from math import inf, nan

import pytest
from trl import SFTConfig

from expert_condenser.errors import TrainingError
from expert_condenser.training.option_ranges import RANGES
from expert_condenser.training.phase import phase_arguments
from expert_condenser.training.recipe import Recipe
from expert_condenser.training.sft_options import REFUSED, SET_BY_RUN, TrainerConfig, default_of

FIELDS = {f.name: f for f in fields(SFTConfig) if f.init}
PASSED_ON = [name for name in FIELDS if name not in {*REFUSED, *SET_BY_RUN}]
CPU = {"use_cpu": True, "bf16": False, "report_to": "none"}


def other_than(option):
    """A value that is not the default; of no meaning, since refusals come before meaning."""
    default, kind = default_of(option), str(option.type)
    return not default if "bool" in kind else 0.7 if "float" in kind else "another"


def recipe(**options):
    return Recipe.of(**{"data": "testbed:gcd", "method": "sft", **CPU, **options})


def test_the_tables_name_fields_that_there_are():
    assert {*REFUSED, *SET_BY_RUN} <= FIELDS.keys()
    assert len(PASSED_ON) > 80


def of_kind(name, number):
    return float(number) if "float" in str(FIELDS[name].type) else number


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_field_is_an_error_with_the_reason(name):
    value = other_than(FIELDS[name])
    with pytest.raises(TrainingError) as caught:
        recipe(**{name: value})
    assert str(caught.value) == f"{name} is not for a recipe: {REFUSED[name]}"
    recipe(**{name: default_of(FIELDS[name])})


@pytest.mark.parametrize("name", PASSED_ON)
def test_a_field_is_passed_on_as_it_stands(name):
    made = recipe()
    marker = object()
    setattr(made.trainer, name, marker)
    assert getattr(phase_arguments(made, made.new_method()), name) is marker


@pytest.mark.parametrize("name", SET_BY_RUN)
def test_a_field_that_the_run_sets(name, tmp_path):
    made = recipe(output_dir=str(tmp_path), method="condenser", max_steps=10, seed=5, data_seed=8, save_total_limit=2)
    first, second = (phase_arguments(made, made.new_method(phase)) for phase in made.phases)
    expected = {
        "output_dir": [str(tmp_path / "sparsify"), str(tmp_path / "condense")],
        "seed": [5, 6],
        "data_seed": [8, 9],
        "num_train_epochs": [1.0, 1.0],
        "max_steps": [5, 5],
        "chat_template_path": [None, None],
        "router_aux_loss_coef": [0.0, 0.0],
        "save_total_limit": [None, None],
        "completion_only_loss": [None, None],
        "assistant_only_loss": [False, False],
        "max_length": [1024, 1024],
    }
    assert [getattr(args, name) for args in (first, second)] == expected[name]
    assert made.trainer.seed == 5, "the recipe stays as it is"


def test_only_the_documented_defaults_differ_from_trl():
    found = {f.name for f in fields(TrainerConfig) if f.init and default_of(f) != default_of(FIELDS[f.name])}
    own = set(TrainerConfig.__annotations__)
    assert found <= own
    assert {"num_train_epochs", "warmup_steps", "lr_scheduler_type", "learning_rate", "seed"} <= found


def test_the_recipe_says_the_precision_and_no_launcher(monkeypatch):
    """Every packaged file for `accelerate launch` says bf16."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert SFTConfig(**CPU).mixed_precision == "bf16", "control"
    assert recipe().trainer.mixed_precision == "no"
    assert recipe(bf16=True).trainer.mixed_precision == "bf16"
    assert os.environ["ACCELERATE_MIXED_PRECISION"] == "bf16"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, of_kind(name, -2)) for name in RANGES),
        *((name, value) for name in RANGES if "float" in str(FIELDS[name].type) for value in (nan, inf)),
        *((name, of_kind(name, 0)) for name, allowed in RANGES.items() if not allowed.holds(0)),
        ("adam_beta2", 1.0),
    ],
)
def test_a_number_without_meaning_is_an_error_by_its_name(name, value):
    with pytest.raises(TrainingError, match=f"^{name} is .*; got {value}"):
        recipe(**{name: value})


def test_numbers_at_the_edge_have_a_meaning():
    edge = {"max_steps": -1, "learning_rate": 0.0, "seed": 0, "adam_beta1": 0.0, "save_steps": 0.5}
    trainer = recipe(**edge, per_device_train_batch_size=1).trainer
    assert {name: getattr(trainer, name) for name in edge} == edge
