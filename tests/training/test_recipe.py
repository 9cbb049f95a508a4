"""A recipe is refused before anything is loaded, with the name of what is wrong in it."""

import json
import os
import re

import pytest
import yaml

from expert_condenser import METHODS
from expert_condenser.errors import ExpertCondenserError, RoutingError, TrainingError
from expert_condenser.functional.allocation import Allocation
from expert_condenser.training.parse import parse_recipe
from expert_condenser.training.recipe import Recipe

CPU = {"use_cpu": True, "bf16": False, "report_to": "none"}


def make(**options):
    return Recipe.of(**{"data": "testbed:gcd", **CPU, **options})


def file(folder, **options):
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"data": "testbed:gcd", **CPU, **options}))
    return ["--config", str(path)]


def test_a_recipe_and_what_the_command_line_changes(tmp_path):
    words = file(tmp_path, method="bias_only", bias_step=0.01, learning_rate="5.0e-4", budget="additive")
    found = parse_recipe(
        [*words, "--bias_step", "0.02", "--bias-in-weights", "true", "--limit=5", "--full-determinism"]
    )
    assert (found.run.method, found.trainer.learning_rate, found.method.budget) == ("bias_only", 5e-4, "additive")
    assert (found.method.bias_step, found.method.bias_in_weights, found.data.limit) == (0.02, True, 5)
    assert found.trainer.full_determinism is True
    assert parse_recipe(words).trainer.full_determinism is False


def test_the_defaults_are_the_published_ones():
    found = make()
    assert (found.run.method, found.method.num_condensers) == ("condenser", Allocation((2,)))
    assert found.method.bias_step_condense == 5e-5
    trainer = found.trainer
    assert (trainer.learning_rate, trainer.num_train_epochs, trainer.warmup_steps, trainer.seed) == (
        1e-5,
        2.0,
        0.1,
        1234,
    )
    assert (trainer.lr_scheduler_type, trainer.lr_scheduler_kwargs) == ("cosine_with_min_lr", {"min_lr_rate": 0.1})
    assert trainer.push_to_hub is False


def test_the_file_and_the_flags_are_one_recipe(tmp_path):
    options = {"method": "esft_gate", "top_p": 0.3, "lora": None, "max_steps": 4, "num_train_epochs": 2}
    words = [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]
    by_file, by_flags = parse_recipe(file(tmp_path, **options)).flat(), parse_recipe([*file(tmp_path), *words]).flat()
    assert by_file == by_flags == make(**{**options, "num_train_epochs": 2.0}).flat()
    assert by_file["num_train_epochs"] == 2.0


@pytest.mark.parametrize(
    ("old", "new", "value"),
    [
        ("model_name_or_path", "model", "somewhere"),
        ("dataset", "data", "rows.jsonl"),
        ("dataset_name", "data", "owner/name"),
        ("dataset_split", "split", "validation"),
        ("eval_dataset", "eval_data", "held_out.jsonl"),
    ],
)
def test_an_old_name_is_an_alias(tmp_path, old, new, value):
    by_flag = parse_recipe([*file(tmp_path), f"--{old}", value]).flat()
    assert by_flag[new] == value
    assert by_flag == parse_recipe([*file(tmp_path), f"--{new}", value]).flat()
    path = tmp_path / "old.yaml"
    path.write_text(yaml.safe_dump({**CPU, **({} if new == "data" else {"data": "testbed:gcd"}), old: value}))
    assert parse_recipe(["--config", str(path)]).flat()[new] == value


def test_a_name_and_its_alias_in_one_file(tmp_path):
    with pytest.raises(TrainingError, match="data is set twice, once as dataset; leave one out"):
        parse_recipe(file(tmp_path, dataset="rows.jsonl"))


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("learning_speed", "learning_rate"), ("learning_rat", "learning_rate"), ("bias_stepp", "bias_step")],
)
def test_an_unknown_key_is_named_with_the_nearest_one(tmp_path, wrong, right):
    message = re.escape(f"'{wrong}' is no option; did you mean '{right}'?")
    with pytest.raises(TrainingError, match=message):
        parse_recipe(file(tmp_path, **{wrong: 1.0}))
    with pytest.raises(TrainingError, match=message):
        parse_recipe([f"--{wrong.replace('_', '-')}", "1.0"])  # before it is said that there is no data
    with pytest.raises(TrainingError, match=message):
        make(**{wrong: 1.0})
    parse_recipe(file(tmp_path, **{right: 1.0}))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("use_peft", "set lora to attention"),
        ("lora_target_modules", "set lora"),
        ("resume_from_checkpoint", "resume: true"),
    ],
)
def test_what_other_tools_call_it(tmp_path, name, hint):
    with pytest.raises(TrainingError, match=hint):
        parse_recipe([*file(tmp_path), f"--{name}", "true"])
    with pytest.raises(TrainingError, match=hint):
        parse_recipe(file(tmp_path, **{name: "true"}))


@pytest.mark.parametrize("path", [None, "missing.yaml", "."])
def test_the_recipe_must_be_a_file(tmp_path, path):
    words = [] if path is None else [str(tmp_path / path)]
    with pytest.raises(TrainingError, match="--config takes a YAML file; got"):
        parse_recipe(["--method", "sft", "--config", *words])


@pytest.mark.parametrize("text", ["[1, 2]", "", "method: [sft", f"data: {'[' * 10_000}"])
def test_the_recipe_must_be_a_mapping(tmp_path, text):
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(TrainingError, match="a recipe is a"):
        parse_recipe(["--config", str(tmp_path / "recipe.yaml")])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("limit", "many", "argument --limit: invalid int value: 'many'"),
        ("limit", 3.5, "argument --limit: invalid int value: '3.5'"),
        ("bias_step", "fast", "argument --bias_step/--bias-step: invalid float value: 'fast'"),
        ("one_phase", "perhaps", "Truthy value expected"),
        ("num_condensers", "two", 'or "gini:2:1.5"; got "two"'),
    ],
)
def test_a_value_of_the_wrong_kind(tmp_path, name, value, message):
    with pytest.raises(ExpertCondenserError, match=message):
        parse_recipe(file(tmp_path, **{name: value}))
    with pytest.raises(ExpertCondenserError, match=message):
        parse_recipe([*file(tmp_path), f"--{name}", str(value)])


def test_a_word_that_belongs_to_no_option(tmp_path):
    with pytest.raises(TrainingError, match=r"a recipe is --config FILE; got rows\.jsonl"):
        parse_recipe(["rows.jsonl", *file(tmp_path)])


def test_environment_variables_of_a_recipe(tmp_path, monkeypatch):
    monkeypatch.delenv("EXPERT_CONDENSER_TEST", raising=False)
    parse_recipe(file(tmp_path, env={"EXPERT_CONDENSER_TEST": 3}))
    assert os.environ["EXPERT_CONDENSER_TEST"] == "3"
    with pytest.raises(TrainingError, match="env is a mapping"):
        parse_recipe(file(tmp_path, env=["EXPERT_CONDENSER_TEST"]))


def test_a_number_of_condensers_needs_no_quotes(tmp_path):
    assert parse_recipe(file(tmp_path, num_condensers=2)).method.num_condensers == Allocation((2,))
    assert parse_recipe(file(tmp_path, num_condensers="4/2/0")).flat()["num_condensers"] == "4/2/0"


def test_an_unknown_method_is_named_with_the_nearest_one(tmp_path):
    for fail in (lambda: make(method="condensor"), lambda: parse_recipe([*file(tmp_path), "--method", "condensor"])):
        with pytest.raises(TrainingError, match=r"'condensor' is no method; did you mean 'condenser'\?"):
            fail()


@pytest.mark.parametrize(
    ("method", "options", "named"),
    [
        ("sft", {"num_condensers": "3"}, "num_condensers': it is of condenser; leave it out"),
        ("sft", {"bias_step": 0.01}, "bias_step': it is of loss_free, bias_only, condenser; leave it out"),
        ("loss_free", {"bias_step_condense": 1e-3}, "bias_step_condense"),
        ("bias_only", {"condenser_rule": "random"}, "condenser_rule"),
        ("frozen_router", {"router": "train"}, "router"),
        ("condenser", {"top_p": 0.2}, "top_p': it is of esft_token, esft_gate"),
    ],
)
def test_an_option_of_another_method_is_an_error(tmp_path, method, options, named):
    for fail in (
        lambda: make(method=method, **options),
        lambda: parse_recipe(file(tmp_path, method=method, **options)),
        lambda: parse_recipe([*file(tmp_path, **options), "--method", method]),
    ):
        with pytest.raises(TrainingError, match=f"method '{method}' has no option '{named}"):
            fail()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": ""}, "a run needs data: set data"),
        ({"resume": True, "overwrite": True}, "set one of them"),
        (
            {
                "method": "sft_aux",
                "gradient_checkpointing": True,
                "gradient_checkpointing_kwargs": {"use_reentrant": True},
            },
            "reentrant gradient checkpointing runs the layers without a graph",
        ),
        (
            {"method": "sft_aux", "gradient_checkpointing_kwargs": '{"use_reentrant": true}'},
            "reentrant gradient checkpointing runs the layers without a graph",
        ),
        ({"method": "esft_gate", "top_p": 0.0}, "top_p is a share of the score"),
        ({"dtype": "int8"}, "dtype is one of float32, bfloat16, float16, auto"),
        ({"device_map": "auto"}, "device_map names one device; 'auto' spreads the layers"),
        ({"router_learning_rate_factor": 0.0}, "router_learning_rate_factor is above 0"),
        ({"eval_split": "test"}, "eval_split is the split of eval_data, and there is none"),
        ({"eval_strategy": "steps"}, "eval_strategy evaluates on eval_data, and there is none"),
        ({"method": "sft", "router": "lora"}, "router='lora' trains adapters on the routers: set lora as well"),
        ({"method": "sft", "top_k": 4, "lora": "attention"}, "top_k is a field of the model's config"),
        ({"lora_r": 4}, "lora_r is of an adapter, and there is none: set lora"),
        ({"optim": "adamw_8bit"}, "optim 'adamw_8bit' needs bitsandbytes"),
        ({"optim": "lomo"}, "optim 'lomo' changes weights during the backward pass"),
        ({"optim": "galore_adamw_layerwise"}, "changes weights during the backward pass"),
    ],
)
def test_a_recipe_that_cannot_be_meant(options, message):
    with pytest.raises(TrainingError, match=message):
        make(**options)


@pytest.mark.parametrize("options", [{"bias_clip": -0.5}, {"bias_in_weights": True, "bias_space": "score"}])
def test_switches_of_the_routing_are_checked(options):
    with pytest.raises(RoutingError):
        make(**options)


@pytest.mark.parametrize(
    ("options", "epochs", "steps"),
    [
        ({"num_train_epochs": 2.0}, 1.0, -1),
        ({"num_train_epochs": 4.0}, 2.0, -1),
        ({"num_train_epochs": 3.0, "method": "sft"}, 3.0, -1),
        ({"max_steps": 8}, 1.0, 4),
        ({"max_steps": 7, "method": "sft"}, 2.0, 7),
    ],
)
def test_phases_share_the_training_equally(options, epochs, steps):
    assert make(**options).phase_length() == {"num_train_epochs": epochs, "max_steps": steps}


def test_steps_that_cannot_be_shared_equally():
    with pytest.raises(TrainingError, match="divided equally among 2 phases; got 7"):
        make(max_steps=7).phase_length()


@pytest.mark.parametrize("method", METHODS)
def test_a_record_is_json_and_has_no_secret(method, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    flat = make(method=method).flat()
    assert json.loads(json.dumps(flat)) == flat
    assert set(METHODS[method].options()) <= flat.keys()
    others = {name for kind in METHODS.values() for name in kind.options()} - set(METHODS[method].options())
    assert not others & flat.keys()
    assert "hub_token" not in flat
    assert "hf_secret" not in json.dumps(flat)
