"""The tokens that llama.cpp writes from a GGUF file, beside those of transformers from the checkpoint it was made of.

It needs a Python with `llama-cpp-py-sync` (`make llama-check` makes one), named by LLAMA_CPP_PYTHON.
"""

import json
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch

from expert_condenser.checkpoint.load import load_model, load_tokenizer

ASK = Path(__file__).parents[2] / "tests" / "export" / "llama_cpp" / "ask.py"
QUESTION = "Write three sentences about the ocean."
NEW_TOKENS = 24


def compare(python: str, checkpoint: Path, file: Path) -> str:
    """One line: how many greedy tokens are the same, how far the logits are apart, and what the text is."""
    model, tokenizer = load_model(checkpoint).eval(), load_tokenizer(checkpoint)
    turns = [{"role": "user", "content": QUESTION}]
    prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    with torch.no_grad():
        written = model.generate(**prompt, max_new_tokens=NEW_TOKENS, do_sample=False)
        wanted = model(input_ids=written, use_cache=False).logits[0].numpy()
    found = _asked(python, file, written[0].tolist())
    start = prompt["input_ids"].shape[1]
    same = int((found[start - 1 : -1].argmax(-1) == written[0, start:].numpy()).sum())
    apart = np.abs(found - wanted).max() / np.abs(wanted).max()
    text = tokenizer.decode(written[0, start:], skip_special_tokens=True)
    return f"{same} of {written.shape[1] - start} tokens are the same; logits differ by {apart:.1e}: {text!r}"


def _asked(python: str, file: Path, ids: list[int]) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        asked, answers = Path(folder, "asked.json"), Path(folder, "answers.npz")
        asked.write_text(json.dumps({"files": {"it": str(file)}, "ids": [ids], "texts": []}))
        command = [python, str(ASK), str(asked), str(answers)]
        subprocess.run(command, check=True, capture_output=True, env=_variables(python, folder))
        with np.load(answers) as found:
            return found["it"][0]


def _variables(python: str, folder: str) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "LD_PRELOAD")}
    if tuple(map(int, os.confstr("CS_GNU_LIBC_VERSION").split()[1].split("."))) >= (2, 38):
        return own
    from tests.export.llama_cpp.older_glibc import environment

    find = "import importlib.util as u; print(*u.find_spec('llama_cpp_py_sync').submodule_search_locations)"
    place = subprocess.run([python, "-c", find], check=True, capture_output=True, text=True, env=own).stdout.strip()
    (Path(folder) / "older").mkdir()
    return own | environment(Path(place), Path(folder) / "older")
