"""What `condenser families` and `condenser methods` print is what is in the tables."""

import json
from pathlib import Path

import pytest

from expert_condenser.bench.costs import ARM_OF
from expert_condenser.cli.catalog import build, catalog, committed_costs
from expert_condenser.cli.main import main
from expert_condenser.methods import METHODS
from expert_condenser.moe.families import FAMILIES, REFUSED
from expert_condenser.surgery.unprunable import UNPRUNABLE

PAGE = Path(__file__).parents[2] / "docs" / "families.md"
UNMEASURED = {"smt", "router_only"}
"""Methods whose costs are not committed yet; the table leaves their columns empty."""


def printed(capsys, *words):
    assert main(words) == 0
    return capsys.readouterr().out


def test_the_packaged_catalog_is_what_the_tables_say():
    assert catalog() == build(), "run make catalog"
    assert [row["name"] for row in catalog()["methods"]] == list(METHODS)
    assert all(row["options"] == list(METHODS[row["name"]].options()) for row in catalog()["methods"])


def test_families_as_json(capsys):
    rows = json.loads(printed(capsys, "families", "--json"))["families"]
    assert [{key: row[key] for key in row if key != "prunable"} for row in rows] == catalog()["families"]
    assert [row["model_type"] for row in rows if row["supported"] and not row["prunable"]] == [*UNPRUNABLE]
    assert {row["model_type"] for row in rows if row["supported"]} == set(FAMILIES)
    assert {row["model_type"]: row["reason"] for row in rows if not row["supported"]} == REFUSED
    assert len(FAMILIES) >= 50
    assert all(row["scoring"] and row["router_class"] and row["reason"] is None for row in rows if row["supported"])


def test_families_one_line_each(capsys):
    lines = printed(capsys, "families").splitlines()
    assert len(lines) == len(FAMILIES) + len(REFUSED) + 1
    assert lines[-1] == f"{len(FAMILIES)} supported, {len(REFUSED)} refused"
    assert next(line for line in lines if line.startswith("gpt_oss ")).split()[1] == "supported"


def test_the_table_of_the_page_is_the_printed_one(capsys):
    table = printed(capsys, "families", "--markdown").strip()
    assert table in PAGE.read_text()
    assert all(f"`{name}`" in table for name in (*FAMILIES, *REFUSED))


def test_methods_as_json(capsys):
    content = json.loads(printed(capsys, "methods", "--json"))
    assert [row["name"] for row in content["methods"]] == list(METHODS)
    for row in content["methods"]:
        assert {"name", "summary", "paper", "trainable", "phases", "options", "relative_cost"} == set(row)
        assert (row["relative_cost"] is None) == (row["name"] in UNMEASURED)
        assert row["name"] in UNMEASURED or min(row["relative_cost"][key] for key in ("time", "memory")) > 0
    assert content["cost_measured_on"] == committed_costs()["measured_on"]


def test_methods_one_line_each(capsys):
    lines = printed(capsys, "methods").splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == list(METHODS)


def test_committed_costs_are_ratios_of_committed_medians():
    costs = committed_costs()
    base = costs["medians"]["sft"]
    assert set(costs["medians"]) == set(costs["relative_to_sft"]) == set(ARM_OF) - UNMEASURED
    assert set(ARM_OF) > set(METHODS) > UNMEASURED
    for name, cost in costs["relative_to_sft"].items():
        # The median of ratios over rounds, which is not the ratio of medians.
        assert cost["time"] == pytest.approx(costs["medians"][name]["step_s"] / base["step_s"], rel=0.4)
        assert cost["memory"] == pytest.approx(costs["medians"][name]["peak_mb"] / base["peak_mb"], abs=1e-3)
    assert costs["relative_to_sft"]["sft"] == {"time": 1.0, "memory": 1.0}
