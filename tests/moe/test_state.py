"""What the checks of a router's state accept and refuse; `tests/checkpoint/test_router_state.py` has the readers."""

import json

import pytest
import torch

from expert_condenser import METHODS, MethodConfig, RoutingConfig, attach, moe_layers
from expert_condenser.adapters.config import AdapterConfig
from expert_condenser.adapters.lora import add_adapter
from expert_condenser.errors import CheckpointError, RoutingError, TrainingError
from expert_condenser.functional.scoring import Scoring
from expert_condenser.moe.state import check_router_state, check_same_routers, make_section, read_section
from expert_condenser.testing import tiny_model

SHARED, ADDITIVE = RoutingConfig(), RoutingConfig(budget="additive")
NUM_EXPERTS, TOP_K = 5, 3


def check(bias=None, ids=(4, 0), policy=SHARED, **options):
    bias = torch.zeros(NUM_EXPERTS) if bias is None else bias
    condensers = ids if isinstance(ids, torch.Tensor) else torch.tensor(ids, dtype=torch.int64)
    check_router_state("the.gate", bias, condensers, num_experts=NUM_EXPERTS, top_k=TOP_K, policy=policy, **options)


def test_what_training_writes_is_accepted():
    check()
    check(ids=())
    check(torch.full((NUM_EXPERTS,), -3e38))
    check(torch.zeros(NUM_EXPERTS, dtype=torch.bfloat16))
    check(ids=torch.tensor([1, 2], dtype=torch.int32))
    check(torch.zeros(NUM_EXPERTS, device="meta"), torch.zeros(2, dtype=torch.int64, device="meta"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bias": torch.zeros(4)}, r"the\.gate: the selection bias is 5 floats; got torch.float32 of shape \(4,\)"),
        ({"bias": torch.zeros(5, 1)}, r"5 floats; got torch.float32 of shape \(5, 1\)"),
        ({"bias": torch.zeros(5, dtype=torch.int64)}, "5 floats; got torch.int64"),
        ({"bias": torch.tensor([0.0, float("nan"), 0, 0, 0])}, "is finite; got .*nan"),
        ({"ids": (4, 4)}, r"distinct expert ids in 0\.\.4; got \[4, 4\]"),
        ({"ids": (5, 0)}, r"got \[5, 0\]"),
        ({"ids": (-1, 0)}, r"got \[-1, 0\]"),
        ({"ids": torch.tensor([[1, 2]])}, r"one row of integer expert ids; got torch.int64 of shape \(1, 2\)"),
        ({"ids": torch.tensor([1.0, 2.0])}, "integer expert ids; got torch.float32"),
        ({"ids": (0, 1, 2)}, r"the\.gate: .*R <= 2"),
        ({"ids": (0, 1, 2), "policy": ADDITIVE}, "only 2 are sure to be eligible"),
        ({"ids": (0, 1), "scoring": Scoring(num_groups=5, groups_kept=2)}, "only 0 are sure to be eligible"),
    ],
)
def test_what_it_does_not_write_is_refused(options, message):
    with pytest.raises(CheckpointError, match=message):
        check(**options)


def test_a_section_is_read_as_it_was_made():
    layers = moe_layers(tiny_model())
    policy = RoutingConfig(budget="additive", bias_clip=0.5, num_condensers=[1, 0, 2])
    section = json.loads(json.dumps(make_section(policy, [1, 0, 2])))
    assert read_section(section, layers) == (policy, [1, 0, 2])
    assert read_section({**section, "condensers_per_layer": [0, 0, 0]}, layers) == (policy, [0, 0, 0])
    with pytest.raises(CheckpointError, match="a number for each of 3"):
        read_section({**section, "condensers_per_layer": [1, True, 2]}, layers)


@pytest.mark.parametrize("family", ["olmoe", "qwen2_moe", "deepseek_v2", "gpt_oss"])
def test_condensers_are_taken_for_routers_of_the_same_name(family):
    layers = moe_layers(tiny_model(family))
    entries = [{"layer": index, "router": layer.name} for index, layer in enumerate(layers)]
    check_same_routers(entries, layers)
    check_same_routers([{"layer": 0}], layers)
    adapted = add_adapter(tiny_model(family), AdapterConfig(lora="router"), ["router"], SHARED)
    assert moe_layers(adapted)[1].name != layers[1].name
    check_same_routers(entries, moe_layers(adapted))
    check_same_routers([{"layer": i, "router": layer.name} for i, layer in enumerate(moe_layers(adapted))], layers)
    entries[1]["router"] = entries[1]["router"].replace(".layers.", ".layers.1")
    with pytest.raises(RoutingError, match=r"layer 1 here is model\.layers\..*, there model\.layers\.1"):
        check_same_routers(entries, layers)


@pytest.mark.parametrize(
    ("here", "there"), [("olmoe", "deepseek_v2"), ("deepseek_v2", "gpt_oss"), ("qwen2_moe", "gpt_oss")]
)
def test_condensers_of_another_model_are_refused_by_router_name(here, there, tmp_path):
    path = tmp_path / "condensers.json"

    def prepared(family, numbers):
        entries = [
            {"layer": index, "router": layer.name, "condensers": [1, 2]}
            for index, layer in enumerate(moe_layers(tiny_model(family)))
        ]
        path.write_text(json.dumps({"layers": entries}))
        options = {"condenser_rule": "explicit", "condensers_file": str(path), "num_condensers": numbers}
        method = METHODS["condenser"](MethodConfig(**options), "condense")
        method.prepare(tiny_model(here))

    prepared(here, "2")
    with pytest.raises(TrainingError, match=r"condensers\.json is of another model: .* layer 0 here is model\.layers"):
        prepared(there, "2")


def test_a_room_that_nobody_filled_fails():
    model = attach(tiny_model(), SHARED)
    config = model.config
    config.condenser["condensers_per_layer"] = [2, 0, 0]
    empty = type(model)(config)
    with pytest.raises(IndexError):
        empty(input_ids=torch.tensor([[3, 4]]))
