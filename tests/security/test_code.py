"""Code that lies beside a model, a tokenizer or data does not run, and nobody is asked whether it may."""

import builtins
from contextlib import suppress

import pytest

from expert_condenser import RoutingConfig, attach
from expert_condenser.checkpoint.config import read_config
from expert_condenser.checkpoint.load import load_model, load_tokenizer
from expert_condenser.data.conversation import Conversation
from expert_condenser.data.rendering import Renderer
from expert_condenser.data.rows import load_rows
from expert_condenser.errors import CheckpointError, DataError
from expert_condenser.testing import tiny_model
from tests.runs import make_base
from tests.security.hostile import edit_json, hostile_module

AUTO_MAP = {
    "AutoConfig": "hostile.Config",
    "AutoModelForCausalLM": "hostile.Model",
    "AutoModel": "hostile.Model",
    "AutoTokenizer": ["hostile.Tokenizer", None],
}
TURNS = ({"role": "user", "content": "q"}, {"role": "assistant", "content": "a"})


@pytest.fixture
def target(tmp_path, monkeypatch):
    """What hostile code would create; and a question at the terminal would be answered with yes."""
    monkeypatch.setattr(builtins, "input", lambda *words: "y")
    return tmp_path / "created"


@pytest.fixture
def base(tmp_path, target):
    folder = make_base(tmp_path) / "model"
    hostile_module(folder / "hostile.py", target)
    return folder


def test_a_known_family_is_transformers_own_class(base, target):
    edit_json(base / "config.json", lambda content: content.update(auto_map=AUTO_MAP))
    assert type(load_model(base)).__module__.startswith("transformers.models.olmoe")
    assert not target.exists()


def test_an_unknown_family_is_refused(base, target):
    edit_json(base / "config.json", lambda content: content.update(auto_map=AUTO_MAP, model_type="hostile"))
    for read in (load_model, read_config):
        with pytest.raises(CheckpointError, match=r"trust_remote_code|custom code"):
            read(base)
    assert not target.exists()


def test_the_code_file_of_our_own_type_does_not_run_either(tmp_path, target):
    attach(tiny_model("olmoe"), RoutingConfig()).save_pretrained(tmp_path)
    hostile_module(tmp_path / "expert_condenser_model.py", target)
    names = {"AutoConfig": "expert_condenser_model.X", "AutoModelForCausalLM": "expert_condenser_model.Y"}
    edit_json(tmp_path / "config.json", lambda content: content.update(auto_map=names))
    assert type(load_model(tmp_path)).__name__ == "CondenserOlmoeForCausalLM"
    assert not target.exists()


@pytest.mark.parametrize("kind", ["PreTrainedTokenizerFast", "HostileTokenizer"])
def test_a_tokenizer_s_code_does_not_run(kind, base, target):
    edit_json(base / "tokenizer_config.json", lambda c: c.update(auto_map=AUTO_MAP, tokenizer_class=kind))
    with suppress(CheckpointError):  # or it is read as one of transformers' own classes
        load_tokenizer(base)
    assert not target.exists()


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.system('touch created') }}",
        "{{ messages.append(1) }}",
        "{{ range(10 ** 9) | list }}",
        "{{ 1 // 0 }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{{ raise_exception('no') }}",
    ],
)
def test_a_template_gets_out_of_nothing(template, base, target, monkeypatch):
    monkeypatch.chdir(target.parent)
    tokenizer = load_tokenizer(base)
    tokenizer.chat_template = template
    with pytest.raises(DataError):
        Renderer(tokenizer).text(TURNS)
    assert not target.exists()


def test_a_script_beside_rows_is_no_data(tmp_path, target):
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "rows.jsonl").write_text('{"question": "2+3?", "answer": "#### 5"}\n')
    for name in ("rows.py", "__init__.py", "dataset.py"):
        hostile_module(folder / name, target)
    found = load_rows(str(folder)).conversations
    assert [type(each) for each in found] == [Conversation]
    (folder / "rows.jsonl").unlink()
    with pytest.raises(DataError, match=r"must hold .* files"):
        load_rows(str(folder))
    assert not target.exists()
