"""What vLLM is told of our model types, by a stand-in for vLLM; vLLM itself runs in `vllm_check`."""

import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest

from expert_condenser.checkpoint.describe import describe_model
from expert_condenser.export.vllm_plugin import BACKEND, architectures, register
from tests.export.test_native import tuned


class Registry:
    """What of vLLM's registry of models a plugin uses."""

    def __init__(self, known=()):
        self.known, self.registered = known, {}

    def get_supported_archs(self):
        return self.known

    def register_model(self, architecture, model):
        self.registered[architecture] = model


@pytest.fixture
def vllm(monkeypatch):
    module = ModuleType("vllm")
    module.__spec__, module.ModelRegistry = ModuleSpec("vllm", None), Registry()
    monkeypatch.setitem(sys.modules, "vllm", module)
    return module


def test_every_architecture_is_registered_by_name_and_once(vllm):
    register()
    assert vllm.ModelRegistry.registered == dict.fromkeys(architectures(), BACKEND)
    vllm.ModelRegistry = Registry(known=architectures()[1:])
    register()
    assert vllm.ModelRegistry.registered == {architectures()[0]: BACKEND}


@pytest.mark.parametrize("family", ["olmoe", "deepseek_v3"])
def test_the_names_are_those_of_a_saved_config(tmp_path, family):
    import json

    source = tuned(tmp_path / "tuned", family, 0)
    describe_model(source, {})
    config = json.loads((source / "config.json").read_text())
    assert config["architectures"][0] in architectures()
    assert "AutoModel" in config["auto_map"], "the trunk, which the backend builds"


def test_without_vllm_nothing_happens():
    script = (
        "from expert_condenser.export.vllm_plugin import register; import sys; "
        "sys.modules['vllm'] = None; print(register())"
    )
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip().endswith("None")


def test_the_entry_point_is_the_function():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    module, _, name = project["entry-points"]["vllm.general_plugins"]["expert_condenser"].partition(":")
    assert getattr(import_module(module), name) is register
