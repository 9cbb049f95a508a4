"""llama.cpp itself on the files that are written for it (`make llama-check`): logits, and the tokens of text."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from expert_condenser import RoutingConfig
from expert_condenser.checkpoint.load import load_model
from expert_condenser.export.gguf_export import export_gguf
from tests.export.gguf_cases import CASES, VOCABULARY
from tests.export.gguf_tokenizers import TEXTS, every_kind
from tests.export.llama_cpp.older_glibc import environment
from tests.export.test_native import IDS, tuned

pytest.importorskip("gguf", reason="the extra gguf")
PYTHON = os.environ.get("LLAMA_CPP_PYTHON")
pytestmark = pytest.mark.skipif(PYTHON is None, reason="LLAMA_CPP_PYTHON is no Python with llama-cpp-py-sync")
ASK = Path(__file__).with_name("ask.py")
FIND = "import importlib.util as u; print(*u.find_spec('llama_cpp_py_sync').submodule_search_locations)"


@pytest.fixture(scope="module")
def variables(tmp_path_factory):
    """What a process that runs llama.cpp has in its environment."""
    own = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "LD_PRELOAD")}
    if tuple(map(int, os.confstr("CS_GNU_LIBC_VERSION").split()[1].split("."))) >= (2, 38):
        return own
    package = subprocess.run([PYTHON, "-c", FIND], check=True, capture_output=True, text=True, env=own).stdout.strip()
    return own | environment(Path(package), tmp_path_factory.mktemp("older"))


@pytest.fixture
def ask(variables, tmp_path):
    """Asks llama.cpp: `{name: path}` -> `{name: logits}`, or of `texts` the tokens."""

    def run(files, ids=(), texts=()):
        asked, answers = tmp_path / "asked.json", tmp_path / "answers.npz"
        content = {"files": {name: str(path) for name, path in files.items()}, "ids": ids, "texts": texts}
        asked.write_text(json.dumps(content))
        done = subprocess.run([PYTHON, ASK, asked, answers], capture_output=True, text=True, env=variables)
        assert done.returncode == 0, done.stderr[-2000:]
        with np.load(answers) as found:
            return dict(found)

    return run


def logits_of(folder):
    with torch.no_grad():
        return load_model(folder).eval()(input_ids=IDS, use_cache=False).logits.numpy()


def test_llama_cpp_gives_the_logits_of_the_tuned_model_and_not_those_of_the_wrong_space(ask, tmp_path):
    import gguf

    files, wanted = {}, {}
    for place, case in enumerate(CASES):
        source = tuned(tmp_path / f"{place}", case.family, case.condensers, case.policy, **VOCABULARY, **case.options)
        export_gguf(str(source), tmp_path / f"{place}-gguf")
        files[case.name], wanted[case.name] = tmp_path / f"{place}-gguf" / "model.gguf", logits_of(source)
    found = ask(files, IDS.tolist())
    apart = {name: np.abs(found[name] - wanted[name]).max() / np.abs(wanted[name]).max() for name in files}
    print(*(f"{apart[name]:.1e} {name}" for name in files), sep="\n")
    assert max(apart.values()) < 1e-5
    assert all((found[name].argmax(-1) == wanted[name].argmax(-1)).all() for name in files), "the same tokens"
    for path in files.values():
        reader = gguf.GGUFReader(path, "r+")
        architecture = reader.fields["general.architecture"].contents()
        func = reader.fields[f"{architecture}.expert_gating_func"].parts[-1]
        func[0] = {1: 3, 2: 3, 3: 1}[int(func[0])]
        reader.data.flush()
    found = ask(files, IDS.tolist())
    wrong = [np.abs(found[name] - wanted[name]).max() / np.abs(wanted[name]).max() for name in files]
    assert min(wrong) > 1e-3, "the same bias in the other space"


def test_llama_cpp_splits_text_as_the_tokenizer_does(ask, tmp_path):
    files, wanted = {}, {}
    for name, tokenizer in every_kind().items():
        source = tuned(tmp_path / name, "mixtral", 1, RoutingConfig(), vocab_size=len(tokenizer))
        tokenizer.save_pretrained(source)
        export_gguf(str(source), tmp_path / f"{name}-gguf")
        files[name] = tmp_path / f"{name}-gguf" / "model.gguf"
        for place, text in enumerate(TEXTS):
            wanted[f"{name} {place}"] = tokenizer(text, add_special_tokens=False).input_ids
    found = ask(files, texts=TEXTS)
    assert {name: tokens.tolist() for name, tokens in found.items()} == wanted
    others = {tuple(wanted[f"{name} {place}"]) for name in files for place in range(len(TEXTS))}
    assert len(others) > len(TEXTS), "the rules split these texts differently"
