"""A recipe is refused before anything is loaded, with the name of what is wrong in it."""

import json

import jaxtyping
import pytest

from expert_condenser import METHODS
from expert_condenser.errors import RoutingError, TrainingError
from expert_condenser.training.recipe import TrainingConfig, parse_config

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
CPU = {"use_cpu": True, "bf16": False, "report_to": "none"}


@pytest.fixture(autouse=True)
def transformers_defaults(monkeypatch):
    """The argument parser passes on defaults that are not of their field's type, such as 10 for a float."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def config(**options):
    return TrainingConfig(**{"dataset": "testbed:gcd", **CPU, **options})


def recipe(folder, **options):
    """A recipe file; JSON is YAML."""
    path = folder / "recipe.yaml"
    path.write_text(json.dumps({"dataset": "testbed:gcd", **CPU, **options}))
    return ["--config", str(path)]


def test_a_recipe_and_what_the_command_line_changes(tmp_path):
    arguments = recipe(tmp_path, method="bias_only", bias_step=0.01, learning_rate="5.0e-4", budget="additive")
    found = parse_config([*arguments, "--bias_step", "0.02", "--bias_in_weights", "true", "--limit", "5"])
    assert (found.method, found.learning_rate, found.budget) == ("bias_only", 5e-4, "additive")
    assert (found.bias_step, found.bias_in_weights, found.limit) == (0.02, True, 5)


def test_the_defaults_are_the_published_ones():
    found = config()
    assert (found.method, found.num_condensers, found.bias_step_condense) == ("condenser", "2", 5e-5)
    assert (found.learning_rate, found.num_train_epochs, found.warmup_steps, found.seed) == (1e-5, 2.0, 0.1, 1234)
    assert (found.lr_scheduler_type, found.lr_scheduler_kwargs) == ("cosine_with_min_lr", {"min_lr_rate": 0.1})
    assert found.push_to_hub is False


def test_an_unknown_key_is_named(tmp_path):
    with pytest.raises(TrainingError, match="learning_speed"):
        parse_config(recipe(tmp_path, learning_speed=1.0))
    with pytest.raises(TrainingError, match="--learning_speed"):
        parse_config([*recipe(tmp_path), "--learning_speed", "1.0"])


@pytest.mark.parametrize("path", [None, "missing.yaml", "."])
def test_the_recipe_must_be_a_file(tmp_path, path):
    arguments = [] if path is None else [str(tmp_path / path)]
    with pytest.raises(TrainingError, match="--config takes a YAML file; got"):
        parse_config(["--method", "sft", "--config", *arguments])


@pytest.mark.parametrize(
    "text",
    [
        "[1, 2]",
        "",
        "method: [sft",
    ],
)
def test_the_recipe_must_be_a_mapping(tmp_path, text):
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(TrainingError):
        parse_config(["--config", str(tmp_path / "recipe.yaml")])


def test_a_number_of_condensers_needs_no_quotes(tmp_path):
    assert parse_config(recipe(tmp_path, num_condensers=2)).num_condensers == "2"


def test_an_unknown_method_lists_the_known():
    with pytest.raises(TrainingError, match=f"method is one of {', '.join(METHODS)}; got 'condensor'"):
        config(method="condensor")


@pytest.mark.parametrize(
    ("method", "options", "named"),
    [
        ("sft", {"num_condensers": "3"}, "num_condensers"),
        ("sft", {"bias_step": 0.01, "routing_preset": "reference"}, "bias_step, routing_preset"),
        ("loss_free", {"bias_step_condense": 1e-3}, "bias_step_condense"),
        ("bias_only", {"condenser_rule": "random", "selection_seed": 3}, "condenser_rule, selection_seed"),
    ],
)
def test_an_option_without_effect_is_an_error(method, options, named):
    with pytest.raises(TrainingError, match=f"method '{method}' has no use for {named}; leave out"):
        config(method=method, **options)
    config(method="condenser", **options)


def test_an_option_without_effect_on_the_command_line(tmp_path):
    with pytest.raises(TrainingError, match="'sft' has no use for num_condensers"):
        parse_config([*recipe(tmp_path, method="sft"), "--num_condensers", "3"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": ""}, "a run needs data: set dataset"),
        ({"resume": True, "overwrite": True}, "set one of them"),
        ({"push_to_hub": True}, "runs upload nothing"),
        ({"router_aux_loss_coef": 0.01}, "the method sets the auxiliary-loss coefficient"),
        ({"router_aux_loss_coef": 0.0, "method": "sft"}, "leave router_aux_loss_coef out"),
        (
            {"method": "sft_aux", "gradient_checkpointing_kwargs": {"use_reentrant": True}},
            "reentrant gradient checkpointing runs the layers without a graph",
        ),
        (
            {"method": "sft_aux", "gradient_checkpointing_kwargs": '{"use_reentrant": true}'},
            "reentrant gradient checkpointing runs the layers without a graph",
        ),
        ({"method": "esft_gate", "top_p": 0.0}, "top_p is a share of the score"),
        ({"dtype": "int8"}, "dtype is float32, bfloat16, float16 or auto"),
    ],
)
def test_a_recipe_that_cannot_be_meant(options, message):
    with pytest.raises(TrainingError, match=message):
        config(**options)


@pytest.mark.parametrize("options", [{"bias_clip": -0.5}, {"bias_in_weights": True, "bias_space": "score"}])
def test_switches_of_the_routing_are_checked(options):
    with pytest.raises(RoutingError):
        config(**options)


@pytest.mark.parametrize(
    ("options", "phases", "epochs", "steps"),
    [
        ({"num_train_epochs": 2}, 2, 1.0, -1),
        ({"num_train_epochs": 4}, 2, 2.0, -1),
        ({"num_train_epochs": 3}, 1, 3.0, -1),
        ({"max_steps": 8}, 2, 1.0, 4),
        ({"max_steps": 7}, 1, 2.0, 7),
    ],
)
def test_phases_share_the_training_equally(options, phases, epochs, steps):
    assert config(**options).phase_length(phases) == {"num_train_epochs": epochs, "max_steps": steps}


@pytest.mark.parametrize("option", ["load_best_model_at_end", "save_only_model"])
def test_what_cannot_be_resumed_is_refused(option):
    with pytest.raises(TrainingError, match="leave both out"):
        config(**{option: True})


def test_steps_that_cannot_be_shared_equally():
    with pytest.raises(TrainingError, match="divided equally among 2 phases; got 7"):
        config(max_steps=7).phase_length(2)
