"""Real usage on machines that are not here: what the cases are of, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import save_file

from expert_condenser.cli.main import main
from expert_condenser.errors import DataError, PlanError
from expert_condenser.planning.routing import OWNED, PRUNED, REPLICATED, SFT, Scenario, simulate
from expert_condenser.planning.usage_files import UsageFile, read_usage
from expert_condenser.report.routing_curves import plot_routing
from tests.samples import folders

FILES = [path for folder in folders("router_usage", "router_usage") for path in sorted(folder.glob("*.json"))]
EVEN = UsageFile("even", torch.ones(2, 8, dtype=torch.float64), 4)
SKEWED = UsageFile("skewed", torch.tensor([[1.0, 1, 1, 1, 2, 2, 4, 4]]).double(), 4)


def rows(files, **changes):
    options = {"experts": (8,), "ranks": (2, 4), "pruned": 0.5, "hidden_size": 16, **changes}
    return {(row.ranks, row.case): row for row in simulate(files, Scenario(**options)).rows}


def test_even_usage_is_even_but_for_a_condenser_on_its_owner():
    found = rows([EVEN])
    assert {case for _, case in found} == {SFT, REPLICATED, OWNED, PRUNED}
    assert found[4, SFT].imbalance == pytest.approx(1)
    assert found[4, PRUNED].imbalance == pytest.approx(1)
    # Four ranks bring four tokens, so 16 rows. The owner has 4 and one of 7 shares of 12; the others two.
    assert found[4, OWNED].imbalance == pytest.approx((4 + 12 / 7) / 4)
    # The copies compute one row a token each; of the 12 others two of 7 shares go to a rank without a condenser.
    assert found[4, REPLICATED].imbalance == pytest.approx((1 + 24 / 7) / 4)


def test_copies_send_less_by_the_condensers_alone():
    found = rows([SKEWED], num_condensers=2)
    assert found[2, REPLICATED].traffic == 2 / 4
    assert found[2, SFT].bytes_per_token == 2 * 4 * 0.5 * 16 * 2
    assert found[2, REPLICATED].bytes_per_token == found[2, SFT].bytes_per_token / 2
    assert found[2, OWNED].traffic == found[2, SFT].traffic == 1, "control"
    assert found[2, REPLICATED].experts_held == 2 + 6 / 2
    assert found[2, PRUNED].experts_held == 2


def test_pruned_is_the_tail():
    found = simulate([SKEWED], Scenario(experts=(8,), ranks=(4,), pruned=0.5))
    assert found.tail_share == {8: pytest.approx(4 / 16)}
    row = {row.case: row for row in found.rows}[PRUNED]
    assert row.imbalance == pytest.approx(4 / 3), "one expert a rank: 2, 2, 4, 4"
    assert row.imbalance_worst_layer == row.imbalance


def test_more_ranks_than_experts_are_groups():
    found = rows([SKEWED], ranks=(8, 64))
    assert found[64, SFT].expert_ranks == 8
    assert found[64, SFT].imbalance == found[8, SFT].imbalance == pytest.approx(2)
    assert found[64, PRUNED].expert_ranks == 4


def test_without_condensers_there_are_two_cases():
    assert {case for _, case in rows([EVEN], num_condensers=0)} == {SFT, PRUNED}


def test_the_seed_decides():
    one, same, other = (rows([SKEWED], seed=seed, orders=3)[4, SFT].imbalance for seed in (1, 1, 2))
    assert one == same != other


@pytest.mark.parametrize(
    ("files", "changes", "message"),
    [
        ([EVEN, EVEN._replace(top_k=2)], {}, r"the files say \[2, 4\]; set --top_k"),
        ([EVEN._replace(top_k=None)], {}, r"the files say \[\]"),
        ([EVEN], {"num_condensers": 4}, "fewer than the K slots"),
        ([EVEN], {"experts": (3,)}, "at most E; got R = 1, K = 4, E from 3"),
        ([EVEN], {"pruned": 0.6}, "must fill K = 4 slots"),
    ],
)
def test_scenarios_that_are_none(files, changes, message):
    with pytest.raises(PlanError, match=message):
        rows(files, **changes)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_published_usage_is_read(path):
    found = read_usage(path)
    content = json.loads(path.read_text())
    assert found.counts.shape == (len(content["layers"]), content["num_experts"])
    assert (found.top_k, found.name) == (content["top_k"], path.stem)


def test_the_usage_of_a_run_is_read(tmp_path):
    counts = torch.randint(0, 9, (3, 2, 5))
    save_file({"step": torch.arange(3), "counts": counts}, tmp_path / "usage.safetensors")
    found = read_usage(tmp_path / "usage.safetensors")
    assert torch.equal(found.counts, counts.sum(0).double())
    assert found.top_k is None


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("none.json", None),
        ("text.json", "{"),
        ("keys.json", "{}"),
        ("empty.json", '{"top_k": 2, "selection_counts": [[0, 0]]}'),
        ("negative.json", '{"top_k": 2, "selection_counts": [[3, -1]]}'),
        ("ragged.json", '{"top_k": 2, "selection_counts": [[3, 1], [2]]}'),
        ("torn.safetensors", "x"),
    ],
)
def test_what_is_no_usage_is_named(tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=name):
        read_usage(tmp_path / name)


def test_the_command_leaves_numbers_and_curves(tmp_path, capsys):
    path = folders("router_usage", "none")[0] / "letters.json"
    words = ["simulate", str(path), "--experts", "16", "32", "--ranks", "4", "8", "--json", str(tmp_path / "r.json")]
    assert main([*words, "--plot", str(tmp_path / "r.svg")]) == 0
    content = json.loads((tmp_path / "r.json").read_text())
    assert (content["format_version"], content["top_k"], len(content["rows"])) == (1, 4, 2 * 2 * 4)
    assert content["scenario"]["experts"] == [16, 32]
    first = (tmp_path / "r.svg").read_bytes()
    plot_routing(simulate([read_usage(path)], Scenario(experts=(16, 32), ranks=(4, 8))), tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_bytes() == first
    plot_routing(simulate([read_usage(path)], Scenario(experts=(16, 32), ranks=(4, 8), seed=1)), tmp_path / "other.svg")
    assert (tmp_path / "other.svg").read_bytes() != first, "control"
    shown = capsys.readouterr().out
    assert "condensers_on_owners" in shown
    assert "traffic" in shown


def test_a_file_says_once_what_is_wrong_with_it(tmp_path):
    with pytest.raises(DataError) as caught:
        read_usage(tmp_path / "none.json")
    assert str(caught.value).startswith(f"{tmp_path / 'none.json'} must be a readable file")
    file = tmp_path / "usage.json"
    file.write_text(json.dumps({"selection_counts": [[1, 2, 3, 4]], "top_k": 5}))
    with pytest.raises(DataError, match="top_k is 1 to the 4 experts that are counted; got 5"):
        read_usage(file)


def test_curves_go_to_a_file_that_can_be_written_and_is_no_input(tmp_path, capsys):
    file = tmp_path / "usage.json"
    file.write_text(json.dumps({"selection_counts": [[1, 2, 3, 4]], "top_k": 2}))
    before, small = file.read_bytes(), ["--experts", "4", "--ranks", "2"]
    assert main(["simulate", str(file), *small, "--plot", str(tmp_path / "none" / "a.svg")]) == 1
    assert "must be writable" in capsys.readouterr().err
    assert main(["simulate", str(file), *small, "--plot", str(tmp_path / "a.png")]) == 2
    assert "--plot writes an SVG file" in capsys.readouterr().err
    assert main(["simulate", str(file), *small, "--json", str(file)]) == 2
    assert "would be written over" in capsys.readouterr().err
    assert file.read_bytes() == before
