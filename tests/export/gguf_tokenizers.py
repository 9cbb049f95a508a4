"""Small tokenizers of every kind that is written as GGUF, trained on a few lines."""

from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from expert_condenser.export.gguf_tokenizer import PRE

TEXTS = [
    "Hello world, it's 2024 and I've 12345 apples.",
    "  two  spaces\n\nand\ttabs, naïve café — déjà vu",
    "def f(x):\n    return x**2 + 10\n",
    "中文 and emoji 🙂!",
]
PAGE = (Path(__file__).parents[2] / "docs" / "method.md").read_text()
"""What merges are learnt from."""


def byte_level(steps):
    """A byte-level BPE tokenizer whose text is split by the `steps` of `PRE`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([_step(step) for step in steps])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    return _trained(tokenizer, trainer)


def sentencepiece_like():
    """A BPE tokenizer with bytes to fall back to and ids in the order of its merges, as Mixtral's."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=special, show_progress=False, max_token_length=8)
    return _trained(tokenizer, trainer, only=("<unk>", "<s>", "</s>"))


def every_kind():
    """`{name: tokenizer}`; the name is llama.cpp's `pre`, or its model where it has none."""
    return {pre: byte_level(steps) for steps, pre in PRE.items()} | {"llama": sentencepiece_like()}


def _step(step):
    if step == "ByteLevel":
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if step == "bytes":
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if step == "Digits one by one":
        return pre_tokenizers.Digits(individual_digits=True)
    return pre_tokenizers.Split(Regex(step), "isolated")


def _trained(tokenizer, trainer, only=None):
    tokenizer.train_from_iterator(PAGE.splitlines(), trainer)
    if only is None:
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")
    # The bytes are tokens of the model, no special ones that would be cut out of the text.
    import json

    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] in only]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)), unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
