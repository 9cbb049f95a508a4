"""Every recipe is read whole, says what its name says, and no key of it can be misspelt."""

import os
import runpy
import subprocess
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from expert_condenser.cli.eval import _read as read_eval
from expert_condenser.cli.plan import _divided, _parser
from expert_condenser.errors import TrainingError
from expert_condenser.evaluation.tasks import TASKS
from expert_condenser.methods import METHODS
from expert_condenser.training.engines import ENGINES
from expert_condenser.training.launch import launch_of
from expert_condenser.training.parse import parse_recipe

FOLDER = Path(__file__).parents[1] / "recipes"
RECIPES = {path.stem: path for path in sorted(FOLDER.glob("*-*.yaml"))}
MODELS = {
    "olmoe-1b-7b": ("allenai/OLMoE-1B-7B-0924", 1e-4),
    "qwen1.5-moe-a2.7b": ("Qwen/Qwen1.5-MoE-A2.7B", 1e-3),
    "deepseek-v2-lite": ("deepseek-ai/DeepSeek-V2-Lite", 1e-4),
    "gpt-oss-20b": ("openai/gpt-oss-20b", 1e-4),
    "qwen3-30b-a3b": ("Qwen/Qwen3-30B-A3B", 1e-4),
    "glm-4.5-air": ("zai-org/GLM-4.5-Air", 1e-4),
}
"""Hub name and gamma of phase 1; none is published for the last three."""
LORA = "-lora"
SETS = {
    "-math_7k": "data/math_7k.json",
    "-math_14k": "data/math_14k.json",
    "-commonsense_15k": "data/commonsense_15k.json",
    "-s1k": "simplescaling/s1K",
}
VARIANTS = (LORA, *SETS)
KINDS = {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "fsdp2_offload": "FSDP"}
KINDS |= dict.fromkeys(("zero2", "zero3", "zero3_offload"), "DEEPSPEED")
TABLE = FOLDER / "paper_table.sh"

every_recipe = pytest.mark.parametrize("name", RECIPES)


def parse(path, folder, *words):
    return parse_recipe(["--config", str(path), "--output_dir", str(folder), "--use_cpu", "true", *words])


def of_set(name):
    """The data set that a recipe is a variant for; empty of the others."""
    return next((variant for variant in SETS if name.endswith(variant)), "")


def copy_of(name, folder, **changes):
    content = {**yaml.safe_load(RECIPES[name].read_text()), **changes}
    path = folder / "copy.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_there_is_one_recipe_per_model_and_method():
    wanted = {f"{model}-{method}" for model in MODELS for method in METHODS}
    variants = {f"olmoe-1b-7b-{method}{data}" for method in ("condenser", "sft") for data in SETS}
    assert set(RECIPES) == {*wanted, *variants, f"olmoe-1b-7b-condenser{LORA}"}


def test_the_recipes_are_those_of_the_table():
    made = runpy.run_path(str(FOLDER / "make.py"))["recipes"]()
    assert {path.name: path.read_text() for path in RECIPES.values()} == made, "`make recipes` writes them"
    assert len(set(made.values())) == len(made), "control: no two are the same"
    assert all(text.startswith("# Written by `make recipes`") for text in made.values())


@every_recipe
def test_a_recipe_is_what_its_name_says(name, tmp_path):
    model, _, method = name.removesuffix(LORA).removesuffix(of_set(name)).rpartition("-")
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
    assert recipe.data.data == SETS.get(of_set(name), "openai/gsm8k:main")


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


def test_the_launch_files_are_the_engines_of_the_package():
    """Written from them, so that there is one truth; the number of processes is all that differs."""
    made = runpy.run_path(str(FOLDER / "make.py"))["launchers"]()
    paths = {path.name: path for path in (FOLDER / "accelerate").glob("*.yaml")}
    assert {name: path.read_text() for name, path in paths.items()} == made, "`make recipes` writes them"
    for name, text in made.items():
        engine = yaml.safe_load(ENGINES[name.removesuffix(".yaml")].read_text())
        assert yaml.safe_load(text) == {**engine, "num_processes": 4} != engine


def test_accelerate_reads_every_launcher():
    paths = {path.stem: path for path in (FOLDER / "accelerate").glob("*.yaml")}
    configs = {name: load_config_from_file(str(path)) for name, path in paths.items()}
    assert {name: configs[name].distributed_type.value for name in KINDS} == KINDS
    assert all(config.mixed_precision == "bf16" for config in configs.values())


# The script of the paper's table


def test_bash_reads_the_script():
    assert subprocess.run(["bash", "-n", TABLE], check=False).returncode == 0
    assert subprocess.run(["bash", "-n", "-c", "if"], check=False, capture_output=True).returncode != 0, "control"
    assert os.access(TABLE, os.X_OK)


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Runs the script with a `condenser` that notes its words; `plan` costs 2.5."""
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "condenser"
    fake.write_text(
        """#!/bin/bash
printf '%s\\n' "$*" >> "$NOTES"
if [ "$1" = plan ]; then echo '{"cost": 2.5}'; fi
command=$1
while [ $# -gt 1 ] && [ "$1" != --output_dir ]; do shift; done
if [ "$command" = train ]; then mkdir -p "$2/model"; touch "$2/model/config.json"; fi
if [ "$command" = eval ]; then mkdir -p "$2"; touch "$2/results.json"; fi
"""
    )
    fake.chmod(0o755)
    for name, value in {
        "MODELS": "olmoe-1b-7b gpt-oss-20b",
        "METHODS": "sft condenser",
        "SEEDS": "1 2",
        "SETS": "math_7k s1k",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")

    def run(*words):
        (tmp_path / "notes").write_text("")
        done = subprocess.run([TABLE, *map(str, words)], check=False, capture_output=True, text=True)
        return done, [line.split() for line in (tmp_path / "notes").read_text().splitlines()]

    return run


def test_the_script_prints_the_cost_of_every_seed(commands):
    done, notes = commands("plan")
    assert done.returncode == 0, done.stderr
    assert len(notes) == 2 * 2 * 2
    assert done.stdout.splitlines()[-1] == "all, with 2 seeds, training alone: 40.00"
    own, rest = _divided(notes[0][1:])
    assert _parser().read(own).devices == 8
    assert parse_recipe([*rest, "--data", "none", "--use_cpu", "true"]).trainer.per_device_train_batch_size == 4


def test_a_plan_that_fails_ends_the_script_with_its_own_message(commands, tmp_path):
    (tmp_path / "bin" / "condenser").write_text("#!/bin/bash\necho 'condenser plan: no such model' >&2\nexit 2\n")
    done, _ = commands("plan")
    assert done.returncode == 2
    assert done.stderr == "condenser plan: no such model\n"
    assert "training alone" not in done.stdout


def test_the_script_trains_and_evaluates_what_is_missing(commands, tmp_path):
    done, notes = commands("run", tmp_path / "out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert [words[0] for words in notes] == ["train", "eval"] * (2 * 2 * 2 * 2)
    launch = launch_of(notes[0][1:], {})
    assert (launch.engine, launch.processes) == ("ddp", 8)
    recipe = parse_recipe([*launch.words, "--use_cpu", "true"])
    assert (recipe.run.method, recipe.data.data) == ("sft", str(tmp_path / "math_7k.json"))
    assert recipe.trainer.per_device_train_batch_size * launch.processes == 32
    asked = read_eval(notes[1][1:])
    assert (asked.tasks, asked.device) == ("gsm8k,svamp,mawps,aqua", ",".join(f"cuda:{n}" for n in range(8)))
    load = {name for words in notes if words[0] == "eval" for name in words[words.index("--tasks") + 1].split(",")}
    assert load <= TASKS.keys()
    assert commands("run", tmp_path / "out", tmp_path)[1] == [], "all is done"


@pytest.mark.parametrize("words", [[], ["plan", "x"], ["run", "out"], ["all"]])
def test_the_script_says_what_it_takes(commands, words):
    done, notes = commands(*words)
    assert (done.returncode, notes) == (2, [])
    assert "paper_table.sh: " in done.stderr


def test_fsdp2_leaves_buffers_alone():
    fsdp = load_config_from_file(str(FOLDER / "accelerate" / "fsdp2.yaml")).fsdp_config
    assert fsdp["fsdp_version"] == 2
    assert fsdp["fsdp_cpu_ram_efficient_loading"] is False
    assert fsdp["fsdp_activation_checkpointing"] is False
