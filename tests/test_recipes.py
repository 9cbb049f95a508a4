"""Every recipe is read whole, says what its name says, and no key of it can be misspelt."""

import runpy
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from expert_condenser.errors import TrainingError
from expert_condenser.methods import METHODS
from expert_condenser.training.parse import parse_recipe

FOLDER = Path(__file__).parents[1] / "recipes"
RECIPES = {path.stem: path for path in sorted(FOLDER.glob("*-*.yaml"))}
MODELS = {
    "olmoe-1b-7b": ("allenai/OLMoE-1B-7B-0924", 1e-4),
    "qwen1.5-moe-a2.7b": ("Qwen/Qwen1.5-MoE-A2.7B", 1e-3),
    "deepseek-v2-lite": ("deepseek-ai/DeepSeek-V2-Lite", 1e-4),
    "gpt-oss-20b": ("openai/gpt-oss-20b", 1e-4),
}
"""Hub name and gamma of phase 1; none is published for gpt-oss-20b."""
LORA = "-lora"
LAUNCHERS = {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "zero3": "DEEPSPEED"}

every_recipe = pytest.mark.parametrize("name", RECIPES)


def parse(path, folder, *words):
    return parse_recipe(["--config", str(path), "--output_dir", str(folder), "--use_cpu", "true", *words])


def copy_of(name, folder, **changes):
    content = {**yaml.safe_load(RECIPES[name].read_text()), **changes}
    path = folder / "copy.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_there_is_one_recipe_per_model_and_method():
    wanted = {f"{model}-{method}" for model in MODELS for method in METHODS}
    assert set(RECIPES) == {*wanted, f"olmoe-1b-7b-condenser{LORA}"}


def test_the_recipes_are_those_of_the_table():
    made = runpy.run_path(str(FOLDER / "make.py"))["recipes"]()
    assert {path.name: path.read_text() for path in RECIPES.values()} == made, "`make recipes` writes them"
    assert len(set(made.values())) == len(made), "control: no two are the same"
    assert all(text.startswith("# Written by `make recipes`") for text in made.values())


@every_recipe
def test_a_recipe_is_what_its_name_says(name, tmp_path):
    model, _, method = name.removesuffix(LORA).rpartition("-")
    recipe = parse(RECIPES[name], tmp_path)
    hub_name, gamma = MODELS[model]
    assert (recipe.run.model, recipe.run.method) == (hub_name, method)
    assert recipe.trainer.output_dir == str(tmp_path)
    if "bias_step" in METHODS[method].options():
        assert recipe.method.bias_step == gamma
    if method == "condenser":
        assert (recipe.method.bias_step_condense, recipe.method.condenser_rule) == (5e-5, "lowest_bias")
        assert str(recipe.method.num_condensers) == "2"


@every_recipe
def test_a_recipe_has_the_published_settings(name, tmp_path):
    recipe = parse(RECIPES[name], tmp_path)
    trainer, adapter = recipe.trainer, recipe.adapter
    assert recipe.phase_length()["num_train_epochs"] * len(recipe.phases) == 2
    assert trainer.per_device_train_batch_size * trainer.gradient_accumulation_steps == 32
    assert (trainer.learning_rate, trainer.warmup_steps) == (1e-4 if name.endswith(LORA) else 1e-5, 0.1)
    assert (adapter.lora is not None) == name.endswith(LORA)
    if adapter.lora is not None:
        assert (adapter.lora_r, adapter.lora_alpha) == (32, 64)
    assert (trainer.lr_scheduler_type, trainer.lr_scheduler_kwargs) == ("cosine_with_min_lr", {"min_lr_rate": 0.1})
    assert (trainer.max_length, trainer.bf16, trainer.seed) == (4096, True, 1234)
    assert recipe.data.data == "openai/gsm8k:main"


@every_recipe
def test_an_unknown_key_is_named(name, tmp_path):
    parse(copy_of(name, tmp_path), tmp_path)
    with pytest.raises(TrainingError, match=r"'learning_rat' is no option; did you mean 'learning_rate'\?"):
        parse(copy_of(name, tmp_path, learning_rat=1e-5), tmp_path)


def test_a_key_of_another_method_is_named(tmp_path):
    with pytest.raises(
        TrainingError, match="'sft' has no option 'bias_step': it is of loss_free, bias_only, condenser"
    ):
        parse(copy_of("olmoe-1b-7b-sft", tmp_path, bias_step=1e-4), tmp_path)
    with pytest.raises(TrainingError, match="'bias_only' has no option 'num_condensers': it is of condenser"):
        parse(copy_of("olmoe-1b-7b-bias_only", tmp_path, num_condensers="4/2/0"), tmp_path)


def test_a_recipe_uploads_nothing(tmp_path):
    with pytest.raises(TrainingError, match="a run uploads nothing"):
        parse(RECIPES["olmoe-1b-7b-condenser"], tmp_path, "--push_to_hub", "true")


def test_accelerate_reads_every_launcher():
    paths = {path.stem: path for path in (FOLDER / "accelerate").glob("*.yaml")}
    configs = {name: load_config_from_file(str(path)) for name, path in paths.items()}
    assert {name: config.distributed_type.value for name, config in configs.items()} == LAUNCHERS
    assert all(config.mixed_precision == "bf16" for config in configs.values())


def test_fsdp2_leaves_buffers_alone():
    fsdp = load_config_from_file(str(FOLDER / "accelerate" / "fsdp2.yaml")).fsdp_config
    assert fsdp["fsdp_version"] == 2
    assert fsdp["fsdp_cpu_ram_efficient_loading"] is False
    assert fsdp["fsdp_activation_checkpointing"] is False
