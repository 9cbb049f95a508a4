"""Run by a Python that has `llama-cpp-py-sync`: what llama.cpp computes from GGUF files. Imports nothing of ours.

argv: a JSON file `{"files": {name: path}, "ids": [[token ids]], "texts": [text]}`, and the .npz file to write: for
every name its logits `(rows, tokens, vocabulary)` or, where `texts` are given, the tokens of every text.
"""

import json
import sys
from pathlib import Path

import numpy as np
from llama_cpp_py_sync._cffi_bindings import get_ffi, get_lib

lib, ffi = get_lib(), get_ffi()
MOST = 1024


def load(path):
    options = lib.llama_model_default_params()
    options.n_gpu_layers = 0
    model = lib.llama_model_load_from_file(path.encode(), options)
    assert model != ffi.NULL, f"llama.cpp does not load {path}"
    return model


def logits_of(model, rows):
    options = lib.llama_context_default_params()
    options.n_ctx = options.n_batch = options.n_ubatch = MOST
    options.n_threads = options.n_threads_batch = 1
    options.type_k = options.type_v = 0  # keys and values in float32, and attention as it is written
    options.flash_attn_type = 0
    size = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
    found = []
    for row in rows:
        context = lib.llama_init_from_model(model, options)
        batch = lib.llama_batch_init(len(row), 0, 1)
        batch.n_tokens = len(row)
        for place, token in enumerate(row):
            batch.token[place], batch.pos[place] = token, place
            batch.n_seq_id[place] = batch.logits[place] = 1
            batch.seq_id[place][0] = 0
        assert lib.llama_decode(context, batch) == 0
        of_row = [ffi.buffer(lib.llama_get_logits_ith(context, place), 4 * size) for place in range(len(row))]
        found.append([np.frombuffer(logits, np.float32).copy() for logits in of_row])
        lib.llama_batch_free(batch)
        lib.llama_free(context)
    return np.array(found)


def tokens_of(model, text):
    vocabulary, data = lib.llama_model_get_vocab(model), text.encode()
    room = ffi.new("llama_token[]", MOST)
    count = lib.llama_tokenize(vocabulary, data, len(data), room, MOST, False, False)
    assert count >= 0
    return [room[place] for place in range(count)]


if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_text())
    lib.llama_backend_init()
    answers = {}
    for name, path in asked["files"].items():
        model = load(path)
        if asked["texts"]:
            answers |= {f"{name} {n}": np.array(tokens_of(model, text)) for n, text in enumerate(asked["texts"])}
        else:
            answers[name] = logits_of(model, asked["ids"])
        lib.llama_model_free(model)
    np.savez(sys.argv[2], **answers)
