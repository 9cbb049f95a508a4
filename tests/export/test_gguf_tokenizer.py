"""A tokenizer in the words of a GGUF file: recognised, named by the user, or refused."""

import json

import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from expert_condenser.checkpoint.load import base_model_path, load_tokenizer
from expert_condenser.errors import ExportError
from expert_condenser.export.gguf_tokenizer import (
    BYTE,
    CONTROL,
    NORMAL,
    PRE,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    tokenizer_fields,
)
from tests.export.gguf_tokenizers import byte_level, sentencepiece_like


def changed(tokenizer, change):
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    change(content)
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(content)))


@pytest.mark.parametrize(("steps", "pre"), PRE.items(), ids=PRE.values())
def test_how_text_is_split_is_recognised(steps, pre):
    assert tokenizer_fields(byte_level(steps), 800)["ggml.pre"] == pre


def test_the_embedded_base_s_tokenizer():
    tokenizer = load_tokenizer(base_model_path())
    fields = tokenizer_fields(tokenizer, 1030)
    assert (fields["ggml.model"], fields["ggml.pre"]) == ("gpt2", "smollm")
    assert fields["ggml.tokens"] == [
        *tokenizer.convert_ids_to_tokens(range(1024)),
        *(f"[PAD{n}]" for n in range(1024, 1030)),
    ]
    assert fields["ggml.token_type"] == [CONTROL] * 5 + [NORMAL] * 1019 + [UNUSED] * 6
    assert fields["ggml.eos_token_id"] == tokenizer.eos_token_id
    assert "ggml.bos_token_id" not in fields
    assert not fields["ggml.add_bos_token"]
    assert fields["chat_template"] == tokenizer.chat_template


def test_a_rule_that_is_not_recognised_is_named_or_refused():
    tokenizer = byte_level((r"\p{N}{1,2}", "bytes"))
    with pytest.raises(ExportError, match="--tokenizer_pre NAME"):
        tokenizer_fields(tokenizer, 800)
    assert tokenizer_fields(tokenizer, 800, "deepseek-llm")["ggml.pre"] == "deepseek-llm"


def test_a_vocabulary_with_bytes_has_scores_in_the_order_of_its_merges():
    tokenizer = sentencepiece_like()
    fields = tokenizer_fields(tokenizer, 800)
    assert fields["ggml.model"] == "llama"
    assert fields["ggml.token_type"][:4] == [UNKNOWN, CONTROL, CONTROL, BYTE]
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    scores = [fields["ggml.scores"][tokenizer.convert_tokens_to_ids("".join(pair))] for pair in merges]
    assert scores == sorted(scores, reverse=True)
    with pytest.raises(ExportError, match="in another order than its ids"):
        tokenizer_fields(changed(tokenizer, lambda content: content["model"]["merges"].reverse()), 800)


def test_an_added_token_that_is_not_special_is_the_user_s():
    tokenizer = byte_level(("ByteLevel",))
    tokenizer.add_tokens(["<tool>"])
    fields = tokenizer_fields(tokenizer, 800)
    assert fields["ggml.token_type"][fields["ggml.tokens"].index("<tool>")] == USER_DEFINED


def test_other_tokenizers_are_refused():
    tokenizer = byte_level(("ByteLevel",))
    with pytest.raises(ExportError, match="the model's vocabulary is 100 tokens"):
        tokenizer_fields(tokenizer, 100)

    def unigram(content):
        content["model"] = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0]]}

    with pytest.raises(ExportError, match="this one is Unigram"):
        tokenizer_fields(changed(tokenizer, unigram), 800)
    with pytest.raises(ExportError, match="this one is a slow one"):
        tokenizer_fields(object(), 800)
