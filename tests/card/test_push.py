"""What is pushed: the files of a model, their checksums, and nothing that tells of this machine; only when asked."""

import hashlib
import json
import socket

import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import save_file

from expert_condenser import RoutingConfig, attach
from expert_condenser.adapters.config import AdapterConfig
from expert_condenser.adapters.lora import add_adapter
from expert_condenser.card import upload as upload_module
from expert_condenser.card.upload import CHECKSUMS, plan_upload, push
from expert_condenser.checkpoint.card import CARD
from expert_condenser.checkpoint.describe import describe_model
from expert_condenser.checkpoint.load import load_model
from expert_condenser.cli.main import main
from expert_condenser.errors import ExportError
from expert_condenser.testing import tiny_model
from tests.card.test_card import PROVENANCE

STAYS = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "trainer_state.json", "metrics.jsonl")
STAYS += ("usage.safetensors", "routing.safetensors", "rows.jsonl", "run.json", "events.out.tfevents.1", ".env")


class Hub:
    """Takes what is sent, and keeps it."""

    def __init__(self, files=None):
        self.files, self.made = files or {}, None

    def create_repo(self, repo_id, private, exist_ok):
        self.made = (repo_id, private, exist_ok)

    def file_exists(self, repo_id, name):
        return name in self.files

    def hf_hub_download(self, repo_id, name):
        return self.files[name]

    def create_commit(self, repo_id, operations, commit_message):
        read = {}
        for operation in operations:
            with operation.as_file() as file:
                read[operation.path_in_repo] = file.read()
        self.sent = read


@pytest.fixture
def saved(tmp_path):
    folder = tmp_path / "model"
    attach(tiny_model("olmoe"), RoutingConfig()).save_pretrained(folder)
    describe_model(folder, PROVENANCE)
    for name in STAYS:
        (folder / name).write_text("kept here")
    for name in ("usage.safetensors", "routing.safetensors"):
        save_file({"step": torch.zeros(1)}, folder / name)
    (folder / "checkpoint-1").mkdir()
    (folder / "LICENSE").symlink_to("/etc/passwd")
    return folder


MODEL = {"model.safetensors", "config.json", "generation_config.json", "provenance.json", "expert_condenser_model.py"}
SENT = MODEL | {CARD, CHECKSUMS}


def test_what_is_sent_is_the_model_with_its_checksums(saved):
    hub = Hub()
    push(plan_upload(saved, "me/model"), api=hub)
    assert hub.made == ("me/model", True, True)
    assert set(hub.sent) == SENT
    sums = json.loads(hub.sent[CHECKSUMS])
    assert set(sums) == SENT - {CHECKSUMS, CARD}, "a card may be edited"
    for name, entry in sums.items():
        assert entry == {"size": len(hub.sent[name]), "sha256": hashlib.sha256(hub.sent[name]).hexdigest()}
    assert hub.sent["model.safetensors"] == (saved / "model.safetensors").read_bytes()
    assert b"/home/me" in (saved / "provenance.json").read_bytes(), "control"
    assert not [name for name, content in hub.sent.items() if b"/home/me" in content]
    assert json.loads(hub.sent["provenance.json"])["config"]["data"] == "rows.jsonl"
    assert set(plan_upload(saved, "me/model").left) == {*STAYS, "checkpoint-1", "LICENSE"}


def test_a_generation_config_tells_of_no_folder(saved):
    (saved / "generation_config.json").write_text(json.dumps({"_from": "/home/alice/secret/models", "top_k": 5}))
    sent = {each.name: each.source for each in plan_upload(saved, "me/it").sent}
    assert json.loads(sent["generation_config.json"]) == {"_from": "models", "top_k": 5}


def test_the_tokens_of_a_tokenizer_are_no_paths(saved):
    tokens = {"3": {"content": "/think"}, "4": {"content": "~/a/b"}}
    content = {"added_tokens_decoder": tokens, "eos_token": "/", "name_or_path": "/home/me/run"}
    (saved / "tokenizer_config.json").write_text(json.dumps({**content, "chat_template": "/{{ x }}"}))
    hub = Hub()
    push(plan_upload(saved, "me/model"), api=hub)
    sent = json.loads(hub.sent["tokenizer_config.json"])
    assert sent == {**content, "chat_template": "/{{ x }}", "name_or_path": "run"}


def test_a_dry_run_sends_nothing_and_says_all(saved, capsys, monkeypatch):
    monkeypatch.setattr(socket, "socket", None)
    assert main(["push", str(saved), "--repo_id", "me/model", "--dry_run"]) == 0
    printed = capsys.readouterr().out
    lines = {line.split()[0]: line for line in printed.splitlines()}
    weights = (saved / "model.safetensors").read_bytes()
    assert lines["model.safetensors"].endswith(f"{len(weights):,} bytes  sha256 {hashlib.sha256(weights).hexdigest()}")
    assert lines.keys() >= SENT
    assert "7 files" in printed
    assert "a private repository" in printed
    assert "not sent: .env, LICENSE, checkpoint-1" in printed
    assert printed.endswith("dry run: nothing was sent\n")


@pytest.mark.parametrize(("overwrite", "kept"), [(False, True), (True, False)])
def test_somebody_s_card_on_the_hub_stays_unless_asked(overwrite, kept, saved, tmp_path):
    own = tmp_path / "theirs.md"
    own.write_text("# Mine\n")
    hub = Hub({CARD: own})
    push(plan_upload(saved, "me/model"), overwrite=overwrite, public=True, api=hub)
    assert (CARD not in hub.sent) == kept
    assert hub.made[1] is False
    hub = Hub({CARD: saved / CARD})  # one that was written here is replaced
    push(plan_upload(saved, "me/model"), api=hub)
    assert CARD in hub.sent


def test_without_a_network_it_says_so(saved, capsys, monkeypatch):
    monkeypatch.setattr(upload_module, "HfApi", lambda: HfApi(endpoint="http://127.0.0.1:9", token="hf_x"))
    assert main(["push", str(saved), "--repo_id", "me/model"]) == 2
    printed = capsys.readouterr().err
    assert "me/model was not pushed" in printed
    assert "It takes a network, and a token" in printed
    assert "Traceback" not in printed
    assert "hf_x" not in printed


def test_what_is_no_model_is_not_pushed(saved, tmp_path):
    with pytest.raises(ExportError, match="OWNER/NAME"):
        plan_upload(saved, "a/b/c")
    with pytest.raises(ExportError, match="is no directory"):
        plan_upload(tmp_path / "none", "me/model")
    with pytest.raises(ExportError, match="that this program saved"):
        plan_upload(tmp_path, "me/model")
    (saved / "provenance.json").unlink()
    with pytest.raises(ExportError, match="that this program saved"):
        plan_upload(saved, "me/model")


def test_a_card_that_names_the_home_directory_is_not_pushed(saved, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    plan_upload(saved, "me/model")  # control
    for text in ("# Mine, from /home/somebody/data\n", f"# Mine\n\nIt lies in {saved.parent / 'rows.jsonl'}.\n"):
        (saved / CARD).write_text(text)
        with pytest.raises(ExportError, match="names no folder of this machine"):
            plan_upload(saved, "me/model")


def test_an_adapter_is_pushed_where_its_base_is_on_the_hub(tmp_path):
    tiny_model("olmoe").save_pretrained(tmp_path / "base")
    adapted = add_adapter(load_model(tmp_path / "base"), AdapterConfig(lora="attention"), ["attention"], None)
    adapted.save_pretrained(tmp_path / "adapter")
    describe_model(tmp_path / "adapter", PROVENANCE)
    with pytest.raises(ExportError, match="a model of the hub"):
        plan_upload(tmp_path / "adapter", "me/model")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": "owner/base"}))
    sent = {each.name for each in plan_upload(tmp_path / "adapter", "me/model").sent}
    assert sent == {"adapter_model.safetensors", "adapter_config.json", "provenance.json", CARD, CHECKSUMS}
