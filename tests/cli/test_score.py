"""`condenser score` writes what ESFT trains, and says no before it loads a model."""

import json
from contextlib import contextmanager

import pytest

from expert_condenser.checkpoint.load import load_model, load_tokenizer
from expert_condenser.cli.main import main
from expert_condenser.methods.esft import ExpertConfig, select_experts
from expert_condenser.moe.layers import moe_layers
from expert_condenser.training.run import train
from tests.runs import config, make_base, read


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"), "deepseek_v2")


def score(base, *words):
    data = ["--model_name_or_path", str(base / "model"), "--dataset", str(base / "rows.jsonl")]
    return main(["score", *data, *words])


@pytest.mark.parametrize("kind", ["token", "gate"])
def test_scores_and_choice(base, tmp_path, capsys, kind):
    path = tmp_path / "expert_cfg.json"
    assert score(base, "--score", kind, "--top_p", "0.5", "--output", str(path), "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert [pytest.approx(1.0)] * 2 == [sum(row) for row in printed["scores"]]
    chosen = ExpertConfig.read(path)
    assert chosen.experts == printed["expert_config"]
    assert list(chosen.experts) == ["1", "2"]  # layer 0 of the model is dense
    for ids, row in zip(chosen.experts.values(), printed["scores"], strict=True):
        assert sum(row[i] for i in ids) >= 0.5 > sum(row[i] for i in ids[:-1])
        assert sorted(range(8), key=lambda i: -row[i])[: len(ids)] == ids


def test_a_run_with_the_file_trains_what_a_run_that_scores_itself_trains(base, tmp_path):
    path = tmp_path / "expert_cfg.json"
    score(base, "--score", "gate", "--rows", "8", "--max_length", "64", "--output", str(path))
    options = {"method": "esft_gate", "num_train_epochs": 1.0, "max_steps": 1}
    train(config(base, tmp_path / "itself", score_rows=8, **options))
    train(config(base, tmp_path / "file", expert_config=str(path), **options))
    assert read(tmp_path / "itself" / "expert_cfg.json") == read(tmp_path / "file" / "expert_cfg.json") == read(path)
    trainable = [read(tmp_path / name / "run.json")["trainable"] for name in ("itself", "file")]
    assert trainable[0] == trainable[1]
    layers = moe_layers(load_model(base / "model"))
    each = sum(p.numel() for p in layers[0].experts.parameters()) // 8
    experts = sum(map(len, read(path)["experts"].values()))
    assert trainable[0]["routed experts"]["trainable"] == experts * each
    assert load_tokenizer(tmp_path / "file" / "model").chat_template


def test_the_bar_counts_rows(base, monkeypatch, capsys):
    moves = []

    @contextmanager
    def progress(label, total):
        moves.append(total)
        yield moves.append

    monkeypatch.setattr("expert_condenser.cli.score.progress", progress)
    assert score(base, "--limit", "10") == 0
    total, *counts = moves
    assert sum(counts) == total == 10
    assert "chosen, best first" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--top_p", "0"), "top_p is a share of the score"),
        (("--top_p", "1.5"), "top_p is a share of the score"),
        (("--rows", "0"), "score_rows is a number of rows"),
        (("--dataset", "nowhere.jsonl"), "nowhere.jsonl"),
    ],
)
def test_bad_input(base, capsys, words, message):
    assert score(base, *words) == 2
    assert message in capsys.readouterr().err


def test_select_experts_is_public_under_its_name():
    import torch

    assert select_experts(torch.tensor([[0.1, 0.15, 0.75]]), 0.8) == [[2, 1]]
