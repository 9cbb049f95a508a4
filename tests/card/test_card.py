"""The card of a saved model: what it says, of which results, and that nobody's own card is overwritten."""

import json

import pytest
import yaml

from expert_condenser import RoutingConfig, attach
from expert_condenser.card.measured import measured_in, results_beside, wilson
from expert_condenser.checkpoint.card import CARD, card_of, is_own
from expert_condenser.checkpoint.describe import describe_model
from expert_condenser.checkpoint.local_names import shown
from expert_condenser.cli.main import main
from expert_condenser.errors import CheckpointError, EvaluationError
from expert_condenser.evaluation.identity import weights_of
from expert_condenser.files import write_json
from expert_condenser.testing import tiny_model
from tests.fuzz.contents import RESULTS

PROVENANCE = {
    "method": "condenser",
    "versions": {"torch": "2"},
    "git_commit": None,
    "config": {"model": "allenai/OLMoE-1B-7B-0924", "data": "/home/me/secret/rows.jsonl", "output_dir": "/home/me/run"},
    "phases": {},
}


def header(text):
    return yaml.safe_load(text.split("---\n")[1])


@pytest.fixture
def saved(tmp_path):
    folder = tmp_path / "run" / "model"
    attach(tiny_model("olmoe"), RoutingConfig()).save_pretrained(folder)
    describe_model(folder, PROVENANCE)
    return folder


def with_results(folder, **task):
    content = {**RESULTS, "weights": weights_of(folder), "tasks": {"gcd": {**RESULTS["tasks"]["gcd"], **task}}}
    write_json(folder.parent / "results.json", content)
    return folder.parent / "results.json"


def test_a_saved_model_has_a_card(saved):
    text = (saved / CARD).read_text()
    assert text == card_of(saved)
    assert header(text) == {
        "base_model": "allenai/OLMoE-1B-7B-0924",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["mixture-of-experts", "expert-condenser", "condenser"],
    }
    assert "by the method `condenser`" in text
    assert "AutoModelForCausalLM.from_pretrained" in text
    assert "How good or how safe it is, is not known" in text
    assert "| data | rows.jsonl |" in text
    assert "/home/me" not in text


def test_the_embedded_base_has_our_license_and_a_stock_model_is_said_to_be_one(tmp_path):
    tiny_model("olmoe").save_pretrained(tmp_path / "a")
    describe_model(tmp_path / "a", {**PROVENANCE, "config": {"model": "testbed", "data": "owner/rows"}})
    text = (tmp_path / "a" / CARD).read_text()
    assert header(text)["license"] == "apache-2.0"
    assert header(text)["datasets"] == ["owner/rows"]
    assert "base_model" not in header(text)
    assert "stock type `olmoe`" in text
    assert "pip install" not in text


def test_the_license_of_a_base_in_a_directory_is_what_its_card_says(saved, tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / CARD).write_text("---\nlicense: mit\n---\n# Base\n")
    write_json(saved / "provenance.json", {**PROVENANCE, "config": {"model": str(tmp_path / "base")}})
    assert header(card_of(saved))["license"] == "mit"
    assert header(card_of(saved, license="gemma"))["license"] == "gemma"
    (tmp_path / "base" / CARD).write_text("---\nlicense: [\n---\n")
    assert "license" not in header(card_of(saved))


def test_wilson_s_interval():
    assert wilson(0, 10) == pytest.approx((0.0, 0.27753), abs=1e-5)
    assert wilson(5, 10) == pytest.approx((0.23659, 0.76341), abs=1e-5)
    assert wilson(10, 10) == pytest.approx((0.72247, 1.0), abs=1e-5)
    assert wilson(500, 1000)[1] - wilson(500, 1000)[0] < 0.07


def test_the_command_writes_what_was_measured(saved, capsys):
    with_results(saved)
    assert main(["card", str(saved)]) == 0
    text = (saved / CARD).read_text()
    assert "| gcd | test | 50.0% | 9.5% to 90.5% | 2 |" in text
    (result,) = header(text)["model-index"][0]["results"]
    assert result["dataset"]["type"] == "gcd"
    assert result["metrics"][0]["value"] == 0.5
    assert "0.095 to 0.905, 2 items" in result["metrics"][0]["name"]
    assert is_own(saved / CARD)
    assert capsys.readouterr().out == f"result: {saved / CARD}\n"


def test_results_of_other_weights_are_refused(saved):
    path = with_results(saved)
    assert results_beside(saved) == path
    assert len(measured_in(path, saved)) == 1  # control
    write_json(path, {**json.loads(path.read_text()), "weights": "sha256:other"})
    with pytest.raises(EvaluationError, match="of the weights sha256:other"):
        measured_in(path, saved)


@pytest.mark.parametrize("task", [{"n": 0}, {"correct": 3}, {"correct": True}, {"n": "2"}, {"correct": None}])
def test_results_that_are_none_are_refused(task, saved):
    with pytest.raises(EvaluationError, match="n items and the `correct` ones"):
        measured_in(with_results(saved, **task), saved)


def test_somebody_s_card_stays_unless_asked(saved, capsys):
    written = (saved / CARD).read_text()
    for text in ("# My model\n", written.replace("expert-condenser", "magic", 1), f"{written}more\n"):
        (saved / CARD).write_text(text)
        assert main(["card", str(saved)]) == 2
        assert (saved / CARD).read_text() == text
        assert "is not overwritten" in capsys.readouterr().err
    assert main(["card", str(saved), "--print"]) == 0
    assert (saved / CARD).read_text() == text
    assert main(["card", str(saved), "--overwrite"]) == 0
    assert (saved / CARD).read_text() == written


def test_a_card_of_an_earlier_release_is_ours(saved):
    (saved / CARD).write_text("# model\n\nFine-tuned with expert-condenser. Its routers hold a selection bias\n")
    assert is_own(saved / CARD)
    (saved / CARD).write_text("# model\n\nFine-tuned by me.\n")
    assert not is_own(saved / CARD)


def test_a_folder_without_a_model_has_no_card(tmp_path, capsys):
    with pytest.raises(CheckpointError, match="a card is of a saved model or adapter"):
        card_of(tmp_path)
    assert main(["card", str(tmp_path / "none")]) == 2
    assert "is no directory" in capsys.readouterr().err


def test_a_path_that_looks_like_a_name_of_the_hub_is_none_wherever_the_card_is_written(saved, tmp_path, monkeypatch):
    """`models/base` and `data/rows.jsonl` are found from where the run was; the card may be written elsewhere."""
    config = {"model": "models/base", "data": "data/rows.jsonl"}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "base").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.jsonl").touch()
    describe_model(saved, {**PROVENANCE, "config": config})
    monkeypatch.chdir("/")
    assert not {"base_model", "datasets"} & header(card_of(saved)).keys()
    describe_model(saved, json.loads((saved / "provenance.json").read_text()))  # as a later step does, from there
    assert not {"base_model", "datasets"} & header(card_of(saved)).keys()
    describe_model(saved, {**PROVENANCE, "config": {"model": "owner/base", "data": "owner/rows"}})
    assert header(card_of(saved))["base_model"] == "owner/base", "control"
    assert header(card_of(saved))["datasets"] == ["owner/rows"]


def test_paths_are_shown_by_their_last_part(tmp_path, monkeypatch):
    paths = ["/a/b", "~/b", "./a/b", "../b", "C:\\a\\b", "file:///a/b"]
    assert shown({"x": paths}) == {"x": ["b"] * 6}
    assert shown("runs/customer/model") == "model"
    (tmp_path / "customer" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert shown(["customer/model", "other/model", "a/" * 3000]) == ["model", "other/model", "a/" * 3000]
    within = ["testbed:gcd,/home/me/x.jsonl:0.5", 'of ["/home/me/a", "~/b/c"]', "x=C:\\a\\b"]
    assert shown(within) == ["testbed:gcd,x.jsonl:0.5", 'of ["a", "c"]', "x=b"]
    assert shown({"/home/me/secret.jsonl": "\\\\srv\\share\\me"}) == {"secret.jsonl": "me"}
    assert shown("from https://me:token@x.org/y") == "from https://x.org/y"
    others = ["a/b", "testbed:gcd", 1, None, "a, /b", "https://x.org/y/z", "see https://x.org/y/z", "(b + beta) / 2"]
    assert shown(others) == others, "control"


SHARDS = {"model": "/home/me/dense", "shards": 4, "copies": 2}
PRUNED = {"model": "/home/me/run/model", "num_experts": 48, "num_experts_left": 40}
EXPORTED = {"from": "/home/me/run/model", "to": "gguf", "how": "by hand"}


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        ({"upcycled": SHARDS}, "Made a mixture of experts from `dense` by expert-condenser: 4 shards by 2 copies"),
        ({"pruned": PRUNED}, "Pruned from `model` by expert-condenser: 40 of 48 experts are left in every layer."),
        ({"exported": EXPORTED}, "Exported from `model` to a file for llama.cpp by expert-condenser: by hand."),
        (
            {**PROVENANCE, "pruned": PRUNED},
            "from `allenai/OLMoE-1B-7B-0924` with expert-condenser by the method `condenser`. Pruned by",
        ),
        ({"upcycled": SHARDS, "pruned": PRUNED, "exported": EXPORTED}, "in every layer. Exported to a file"),
        ({"exported": {**EXPORTED, "to": "native"}}, "to the family's own type"),
        ({}, "Nothing beside it says how it was made"),
    ],
)
def test_every_step_is_said_in_order_and_the_base_once(steps, text, saved):
    write_json(saved / "provenance.json", steps)
    card = card_of(saved)
    assert text in card
    assert card.count(" from `") == bool(steps)
    assert "/home/me" not in card


def test_a_file_for_llama_cpp_has_a_card(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    write_json(tmp_path / "provenance.json", {**PROVENANCE, "exported": EXPORTED})
    text = card_of(tmp_path)
    assert header(text)["tags"] == ["mixture-of-experts", "expert-condenser", "gguf", "condenser"]
    assert "library_name" not in header(text)
    assert "llama-server --model model.gguf" in text


def test_the_results_of_a_pruning_are_those_of_its_models(saved):
    pruning = saved.parent
    for name, model in (("after", saved), ("healed", pruning / "healed" / "model")):
        assert results_beside(model) is None
        place = pruning / "evaluation" / name / "results.json"
        place.parent.mkdir(parents=True)
        place.write_text("{}")
        assert results_beside(model) == place
