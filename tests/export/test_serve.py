"""What stands between a tuned model and `transformers serve`; the servers themselves run in `serve_check`."""

import importlib
import importlib.metadata
import subprocess
import sys

import pytest
import torch

from expert_condenser import RoutingConfig
from expert_condenser.cli import serve as command
from expert_condenser.errors import ExportError, UsageError
from expert_condenser.export.serve import check_servable, offer_classes, serve
from expert_condenser.testing import tiny_model
from tests.export.test_native import tuned


@pytest.fixture
def source(tmp_path):
    return tuned(tmp_path / "tuned", "olmoe", 1, RoutingConfig())


def test_the_server_s_loader_finds_our_class_once_it_is_offered(source):
    manager = importlib.import_module("transformers.cli.serving.model_manager")
    vars(manager.transformers).pop("CondenserOlmoeForCausalLM", None)
    loader = manager.ModelManager(device="cpu", dtype="float32")
    with pytest.raises(AttributeError, match="CondenserOlmoeForCausalLM"):
        loader._load_model(f"{source}@main")
    assert offer_classes(str(source)).__name__ == "CondenserOlmoeForCausalLM"
    model = loader._load_model(f"{source}@main")
    with torch.no_grad():
        found = model.eval()(input_ids=torch.arange(2, 34)[None]).logits
    assert found.shape[1] == 32
    assert [
        layer.router.condenser_ids.tolist() for layer in importlib.import_module("expert_condenser").moe_layers(model)
    ]


def test_the_code_file_shows_the_class_to_a_server_that_runs(source):
    """As `transformers serve --trust-remote-code` does, in a process that never imported us."""
    from expert_condenser.checkpoint.describe import describe_model

    describe_model(source, {})
    script = (
        "import sys, transformers.cli.serving.model_manager as manager\n"
        "assert not any(name.startswith('expert_condenser') for name in sys.modules)\n"
        "loader = manager.ModelManager(device='cpu', dtype='float32', trust_remote_code=True)\n"
        "print(type(loader._load_model(sys.argv[1] + '@main')).__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(source)], capture_output=True, text=True)
    assert done.stdout.strip() == "CondenserOlmoeForCausalLM", done.stderr[-800:]


def test_a_stock_model_needs_nothing(tmp_path):
    tiny_model("olmoe").save_pretrained(tmp_path)
    assert offer_classes(str(tmp_path)) is None


def test_what_is_no_model_is_refused(tmp_path, source):
    check_servable(source)
    with pytest.raises(ExportError, match="is neither"):
        check_servable(tmp_path / "nowhere")
    with pytest.raises(ExportError, match=r"has no config\.json"):
        check_servable(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ExportError, match="take the run's model/, where it is merged"):
        check_servable(tmp_path)
    (tmp_path / "a@b").mkdir()
    (tmp_path / "a@b" / "config.json").write_text("{}")
    with pytest.raises(ExportError, match="reads what follows an @ as a revision"):
        check_servable(tmp_path / "a@b")


def test_without_its_packages_the_error_names_the_extra(source, monkeypatch):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(ExportError, match=r"pip install 'expert-condenser\[serve\]'"):
        serve(str(source), [])


def test_the_command_hands_on_all_but_the_model(monkeypatch):
    seen = []
    monkeypatch.setattr("expert_condenser.export.serve.serve", lambda model, options: seen.append((model, options)))
    command.run(["runs/a/model", "--port", "8001", "--", "--continuous-batching"])
    command.run(["--model", "runs/a/model"])
    assert seen == [("runs/a/model", ["--port", "8001", "--continuous-batching"]), ("runs/a/model", [])]
    for words in (["--port", "8001"], ["a", "--model", "b"], []):
        with pytest.raises(UsageError, match="one model is served"):
            command.run(words)
