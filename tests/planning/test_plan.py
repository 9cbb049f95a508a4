"""A plan as a whole: its JSON, what fits, what it advises, and what it warns of."""

import pytest
import torch

from expert_condenser.errors import PlanError
from expert_condenser.kernels import buffers
from expert_condenser.planning.engines import ENGINES, ITEMS
from expert_condenser.planning.outline import memory_of, outline
from expert_condenser.planning.plan import make_plan
from expert_condenser.planning.planner import Machine, Planner
from expert_condenser.planning.units import bytes_of, shown
from expert_condenser.testing import tiny_config
from expert_condenser.training.recipe import Recipe
from tests.finetune import PLAIN


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A config, and no weights."""
    path = tmp_path_factory.mktemp("model")
    tiny_config("olmoe", num_hidden_layers=2).save_pretrained(path)
    return path


def recipe(folder, method="sft", **options):
    given = {"model": str(folder), "data": "none", "output_dir": str(folder / "run"), "max_length": 64}
    return Recipe.of(method=method, **{**PLAIN, "per_device_train_batch_size": 2, **given, **options})


@pytest.fixture(scope="module")
def plan(folder):
    return make_plan(
        recipe(folder, max_steps=10), Machine(devices=4, memory=10**9, flops=1e12, utilisation=0.5, price=3.0)
    )


def test_the_json_has_every_engine_and_item(plan):
    found = plan.content()
    assert found["format_version"] == 1
    assert list(found["engines"]) == list(ENGINES)
    for engine in found["engines"].values():
        assert tuple(engine["bytes_per_device"]) == ITEMS
        assert engine["total_bytes_per_device"] == sum(engine["bytes_per_device"].values())
        assert engine["fits"] is True
    assert found["parameters"]["total"] > found["parameters"]["active"] > 0
    assert found["parameters"]["trainable"] == found["parameters"]["total"]
    assert found["activations"]["without_checkpointing"] > found["activations"]["with_checkpointing"] > 0


def test_time_and_cost_follow_from_flops(plan):
    assert plan.tokens == 10 * 4 * 2 * 64
    assert plan.seconds == pytest.approx(plan.flops / (4 * 1e12 * 0.5))
    assert plan.cost == pytest.approx(4 * plan.seconds / 3600 * 3.0)


def test_twice_the_tokens_cost_twice_as_much(folder):
    one, two = (make_plan(recipe(folder), Machine(), tokens=n) for n in (1000, 2000))
    assert (two.flops, two.cost) == (2 * one.flops, 2 * one.cost)


def test_what_does_not_fit_comes_with_advice_in_order(folder, plan):
    small = make_plan(recipe(folder), Machine(devices=4, memory=10**6))
    assert not any(outlook.fits for outlook in small.engines.values())
    words = ("no engine", "gradient_checkpointing true", "per_device_train_batch_size 1", "max_length 32", "devices")
    assert [word for line, word in zip(small.advice, words, strict=True) if word not in line] == []
    assert plan.advice == [f"it fits on {', '.join(ENGINES)}"]


def test_advice_is_about_what_is_not_done_yet(folder):
    done = recipe(folder, gradient_checkpointing=True, per_device_train_batch_size=1)
    advice = " ".join(make_plan(done, Machine(memory=10**6)).advice)
    assert "gradient_checkpointing" not in advice
    assert "batch_size" not in advice


def test_a_method_on_whole_weights_is_refused_where_they_are_split(folder):
    found = make_plan(recipe(folder, "condenser", condenser_rows_only=True), Machine(devices=2)).engines
    assert {name for name, outlook in found.items() if outlook.refused is None} == {"one_process", "ddp", "zero2"}
    assert "works on whole weights, and fsdp2 splits them" in found["fsdp2"].refused
    found = make_plan(recipe(folder, "esft_gate"), Machine(devices=2)).engines
    assert [name for name, outlook in found.items() if outlook.refused is not None] == ["ep"]


@pytest.mark.parametrize(("devices", "refused"), [(1, False), (2, False), (3, True), (4, False), (12, False)])
def test_experts_that_processes_cannot_share_evenly_are_refused(folder, devices, refused):
    """Twelve devices may be three machines of four; transformers says it where they are not."""
    found = make_plan(recipe(folder), Machine(devices=devices)).engines["ep"].refused
    assert (found is not None) == refused
    assert not refused or "8 are not divided by 3 devices" in found


def test_fewer_experts_than_top_p_may_be_asked_for(folder):
    most, half = (
        make_plan(recipe(folder, "esft_gate", top_p=0.5), Machine(), expert_share=share).sizes.trainable
        for share in (None, 0.25)
    )
    assert most == 2 * half > 0


def test_weights_in_half_precision_that_lose_their_updates_are_warned_of(folder):
    def warnings(**options):
        return make_plan(recipe(folder, **options), Machine()).warnings

    (lost,) = warnings(dtype="bfloat16", learning_rate=1e-5)
    assert "5.0e-04, below 2.0e-03, and rounds to nothing" in lost
    assert warnings(dtype="bfloat16", learning_rate=1e-3) == []
    assert warnings(dtype="float32", learning_rate=1e-5) == []
    assert warnings(dtype="bfloat16", learning_rate=1e-5, lora="attention") == []


def test_the_warning_is_true():
    weight = torch.full((1000,), 0.02, dtype=torch.bfloat16)
    for rate, moves in ((1e-5, False), (1e-3, True)):
        assert torch.equal(weight - rate, weight) is not moves


def test_nothing_of_a_plan_is_left_in_the_process(folder):
    before = dict(buffers._scratch.__dict__)
    planner = Planner(recipe(folder), Machine(device="cpu"))
    assert planner.trace(checkpointing=False).scratch > 0
    assert buffers._scratch.__dict__ == before
    assert type(torch.ones(1)) is torch.Tensor


def test_the_line_of_a_run(folder):
    found = outline(recipe(folder))
    assert (found.engine, found.fits, found.warnings) == ("one_process", True, ())
    assert found.text.startswith(
        f"{shown(found.total_bytes_per_device)} of {shown(found.memory_per_device)} per device"
    )
    assert found.memory_per_device == memory_of(torch.device("cpu")) > 10**9


def test_the_line_of_a_run_that_will_not_fit(folder, monkeypatch):
    monkeypatch.setattr("expert_condenser.planning.outline.memory_of", lambda device: 1000)
    found = outline(recipe(folder))
    assert found.fits is False
    assert found.warnings[0].startswith("this will not fit: ")


def test_the_engine_of_a_launcher_is_read(folder, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert outline(recipe(folder)).engine == "fsdp2"
    monkeypatch.setenv("FSDP_OFFLOAD_PARAMS", "true")
    assert outline(recipe(folder)).engine == "fsdp2_offload"
    monkeypatch.setenv("EXPERT_CONDENSER_ENGINE", "ep")
    assert outline(recipe(folder)).engine == "ep"
    monkeypatch.setattr("expert_condenser.planning.outline.engine_of", lambda trainer: "zero1")
    with pytest.raises(PlanError, match="this run is on zero1"):
        outline(recipe(folder))


def test_a_model_without_a_config_is_named(tmp_path):
    with pytest.raises(PlanError, match="reads the config of the model"):
        Planner(recipe(tmp_path), Machine())


def test_a_machine_has_devices_memory_and_a_rate():
    below = ({"devices": 0}, {"memory": 0}, {"flops": 0.0}, {"utilisation": 1.5}, {"price": -1.0})
    for wrong in (*below, {"price": float("inf")}, {"flops": float("inf")}, {"price": float("nan")}):
        with pytest.raises(PlanError):
            Machine(**wrong)


@pytest.mark.parametrize(
    ("text", "count"), [("80GB", 80 * 10**9), ("24 GiB", 24 * 2**30), ("1.5g", 15 * 10**8), ("7 B", 7)]
)
def test_sizes_as_they_are_written(text, count):
    assert bytes_of(text) == count


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "80XB", "0GB", "80", "80GBB"])
def test_sizes_that_are_none(text):
    with pytest.raises(PlanError, match="80GB"):
        bytes_of(text)


def test_sizes_as_they_are_shown():
    assert [shown(n) for n in (1500, 2.5e6, 80e9, 1.23e12)] == ["1.5 kB", "2.5 MB", "80.0 GB", "1.2 TB"]
