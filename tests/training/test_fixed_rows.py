"""The routing of a few fixed rows at the start and the end of every phase."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from expert_condenser import attach, moe_layers, set_condensers
from expert_condenser.checkpoint.load import load_model, load_tokenizer
from expert_condenser.functional.routing import RoutingConfig
from expert_condenser.testing import tiny_batch, tiny_model
from expert_condenser.training.fixed_rows import LENGTH, ROUTING, choices_on, record_routing
from tests.runs import PHASES, config, make_base, train

ROWS = [[3, 4, 5, 6, 7], [8, 9, 10]]


def test_the_choices_are_those_of_the_routers(recorded_routing):
    model = tiny_model()
    experts, weights = choices_on(model, ROWS)
    assert experts.shape == weights.shape == (8, 3, 3)
    with recorded_routing(model) as calls, torch.no_grad():
        model(input_ids=torch.tensor([ROWS[1]]))
    for layer, _, gates, chosen in calls:
        assert torch.equal(experts[5:, layer], chosen)
        assert torch.equal(weights[5:, layer], gates)
        assert not torch.equal(experts[:3, layer], chosen), "control"


def test_layers_with_more_slots_leave_the_others_empty():
    model = attach(tiny_model(), RoutingConfig(budget="additive", duplicates=False))
    set_condensers(model, {1: [4]})
    experts, weights = choices_on(model, ROWS)
    assert experts.shape == (8, 3, 4)
    assert (experts[:, 1, 3] == 4).all()
    assert (experts[:, [0, 2], 3] == -1).all()
    assert (weights[:, [0, 2], 3] == 0).all()
    assert (experts[:, :, :3] >= 0).all()


def test_a_moment_is_added_and_a_start_begins_anew(tmp_path):
    model = tiny_model()
    record_routing(model, ROWS, tmp_path / "new", "start")
    before = load_file(tmp_path / "new" / ROUTING)
    with torch.no_grad():
        moe_layers(model)[0].router.weight.neg_()
    record_routing(model, ROWS, tmp_path / "new", "end")
    after = load_file(tmp_path / "new" / ROUTING)
    assert after.keys() - before.keys() == {"end.experts", "end.weights"}
    assert torch.equal(after["start.experts"], before["start.experts"])
    assert not torch.equal(after["end.experts"], after["start.experts"])
    assert [p.name for p in (tmp_path / "new").iterdir()] == [ROUTING]
    record_routing(model, ROWS, tmp_path / "new", "start")
    assert "end.experts" not in load_file(tmp_path / "new" / ROUTING)
    with safe_open(tmp_path / "new" / ROUTING, "pt") as file:
        assert file.metadata() == {"format_version": "1"}


def test_only_so_many_tokens_are_recorded(tmp_path):
    record_routing(tiny_model(max_position_embeddings=300), tiny_batch(11, 130).tolist(), tmp_path, "start")
    tensors = load_file(tmp_path / ROUTING)
    assert tensors["tokens"].shape == (8 * LENGTH,)
    assert tensors["row"].bincount().tolist() == [LENGTH] * 8
    assert tensors["layers"].tolist() == [0, 1, 2]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    base = make_base(tmp_path_factory.mktemp("base"))
    train(config(base, base / "run"))
    return base


def test_a_run_records_both_phases(finished):
    found = {phase: load_file(finished / "run" / phase / ROUTING) for phase in PHASES}
    rows = [found[phase]["tokens"] for phase in PHASES]
    assert torch.equal(*rows)
    model = load_model(finished / "run" / "model")
    tokenizer = load_tokenizer(finished / "run" / "model")
    kept = [found["condense"]["tokens"][found["condense"]["row"] == row].tolist() for row in range(8)]
    assert "Tom has" in tokenizer.decode(kept[0])
    assert torch.equal(choices_on(model, kept)[0], found["condense"]["end.experts"].long())
    condensers = [layer.router.condenser_ids for layer in moe_layers(model)]
    for layer, ids in enumerate(condensers):
        active = (found["condense"]["start.experts"][:, layer] == ids).any(-1)
        assert active.all(), "condensers are chosen by then"
    before = load_model(finished / "model")
    assert torch.equal(choices_on(before, kept)[0], found["sparsify"]["start.experts"].long())
    assert not torch.equal(found["sparsify"]["end.experts"], found["condense"]["start.experts"])
