"""A tokenizer as llama.cpp reads it: tokens, merges, and the name of the rule that splits text before merging.

llama.cpp knows these rules by name only (`tokenizer.ggml.pre`), and falls back to another one, in silence, where a name
is missing. So a tokenizer is written whose rule is recognised here or named by the user, and no other.
"""

import json
from collections.abc import Mapping
from typing import Any

from expert_condenser.errors import ExportError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""GGUF's token types."""
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PRE = {
    ("ByteLevel",): "gpt-2",
    ("Digits one by one", "ByteLevel"): "smollm",
    (_WORDS + _REST, "bytes"): "qwen2",
    (_WORDS + "{1,3}" + _REST, "bytes"): "llama-bpe",
}
"""The rules that are recognised: what splits, in order -> llama.cpp's name."""


def tokenizer_fields(tokenizer: Any, vocab_size: int, pre: str | None = None) -> dict[str, Any]:
    """The fields `tokenizer.*` of a GGUF file; `pre` names the rule that splits text where it is not recognised.

    Raises `ExportError` where the tokenizer has no file of its own kind, or llama.cpp no such kind.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ExportError("a GGUF file is written of a fast tokenizer (tokenizer.json); this one is a slow one")
    content = json.loads(backend.to_str())
    model = content["model"]
    if model["type"] != "BPE":
        raise ExportError(f"a GGUF file is written of a BPE tokenizer; this one is {model['type']}")
    tokens, types = _tokens(content, vocab_size)
    fields: dict[str, Any] = {"ggml.tokens": tokens, "ggml.token_type": types}
    if model.get("byte_fallback"):
        fields |= {"ggml.model": "llama", "ggml.scores": _scores(model, vocab_size)}
    else:
        name = pre or PRE.get(_splitting(content["pre_tokenizer"]))
        if name is None:
            raise ExportError(
                "llama.cpp knows by name how a tokenizer splits text, and the name for this one is not known here; "
                "give it (--tokenizer_pre NAME, such as deepseek-llm; convert_hf_to_gguf.py of llama.cpp lists them)"
            )
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
        fields |= {"ggml.model": "gpt2", "ggml.pre": name, "ggml.merges": merges}
    return fields | _special(tokenizer)


def _tokens(content: Mapping[str, Any], vocab_size: int) -> tuple[list[str], list[int]]:
    """Every token by its id, and its type; rows of the embedding without a token are unused ones."""
    named = {index: (token, NORMAL) for token, index in content["model"]["vocab"].items()}
    unknown = content["model"].get("unk_token")
    for index, (token, _) in named.items():
        if content["model"].get("byte_fallback") and len(token) == 6 and token.startswith("<0x"):
            named[index] = (token, BYTE)
        elif token == unknown:
            named[index] = (token, UNKNOWN)
    for added in content["added_tokens"]:
        if named.get(added["id"], ("", NORMAL))[1] != UNKNOWN:
            named[added["id"]] = (added["content"], CONTROL if added["special"] else USER_DEFINED)
    if max(named) >= vocab_size:
        raise ExportError(f"the tokenizer has the id {max(named)}, and the model's vocabulary is {vocab_size} tokens")
    padded = [named.get(index, (f"[PAD{index}]", UNUSED)) for index in range(vocab_size)]
    return [token for token, _ in padded], [kind for _, kind in padded]


def _splitting(pre_tokenizer: Mapping[str, Any] | None) -> tuple[str, ...]:
    """What a pre-tokenizer does, in the words of `PRE`; of one that is not among these, something else."""
    if pre_tokenizer is None:
        return ()
    steps = pre_tokenizer["pretokenizers"] if pre_tokenizer["type"] == "Sequence" else [pre_tokenizer]
    return tuple(map(_step, steps))


def _step(step: Mapping[str, Any]) -> str:
    kind = step["type"]
    if kind == "ByteLevel" and not step["add_prefix_space"]:
        return "ByteLevel" if step.get("use_regex", True) else "bytes"
    if kind == "Digits" and step["individual_digits"]:
        return "Digits one by one"
    if kind == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
        return str(step["pattern"].get("Regex"))
    return json.dumps(step)


def _scores(model: Mapping[str, Any], vocab_size: int) -> list[float]:
    """Scores that merge as the merges do: llama.cpp joins the pair whose token has the highest one.

    Of a SentencePiece vocabulary the ids are in the order of the merges; another one is refused.
    """
    ids = model["vocab"]
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    order = [ids["".join(pair)] for pair in pairs]
    if order != sorted(order):
        raise ExportError("the merges of this tokenizer are in another order than its ids, which llama.cpp cannot say")
    return [-float(index) for index in range(vocab_size)]


def _special(tokenizer: Any) -> dict[str, Any]:
    """Special tokens, whether a prompt begins and ends with one, and the chat template."""
    fields: dict[str, Any] = {}
    names = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}
    for name, attribute in names.items():
        if (index := getattr(tokenizer, f"{attribute}_token_id", None)) is not None:
            fields[f"ggml.{name}_token_id"] = index
    ids = tokenizer("a").input_ids
    fields["ggml.add_bos_token"] = ids[0] == tokenizer.bos_token_id
    fields["ggml.add_eos_token"] = ids[-1] == tokenizer.eos_token_id
    if isinstance(tokenizer.chat_template, str):
        fields["chat_template"] = tokenizer.chat_template
    return fields
