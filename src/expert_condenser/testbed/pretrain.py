"""Pretrain the testbed's base model: `condenser testbed pretrain --output_dir DIR`.

A small OLMoE learns a Zipf-weighted mixture of procedural tasks with the ordinary load-balancing
loss. Every batch is a pure function of its step, so a killed run goes on where its last checkpoint was.
"""

import json
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import OlmoeConfig, OlmoeForCausalLM, PreTrainedTokenizerFast

from expert_condenser.data.procedural.families import FAMILIES, draw, frequencies, items
from expert_condenser.errors import FailedRunError
from expert_condenser.moe.experts import NAME as SORTED
from expert_condenser.testbed.tokenizer import VOCABULARY_SIZE, train_tokenizer


@dataclass(frozen=True)
class PretrainConfig:
    """The recipe of the embedded base model; tokens seen = steps x rows x row_length."""

    steps: int = 2800
    rows: int = 32
    row_length: int = 256
    learning_rate: float = 3e-3
    warmup_steps: int = 100
    final_learning_rate_share: float = 0.02
    weight_decay: float = 0.1
    router_aux_loss_coef: float = 0.01
    seed: int = 0
    log_every: int = 20
    checkpoint_every: int = 100


def base_config(tokenizer: PreTrainedTokenizerFast, recipe: PretrainConfig) -> OlmoeConfig:
    """5.3 M parameters in 5 layers of 24 experts, top-4."""
    return OlmoeConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=160,
        intermediate_size=80,
        num_hidden_layers=5,
        num_attention_heads=5,
        num_key_value_heads=5,
        num_experts=24,
        num_experts_per_tok=4,
        tie_word_embeddings=True,
        max_position_embeddings=512,
        output_router_logits=True,
        router_aux_loss_coef=recipe.router_aux_loss_coef,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )


def pretrain(output_dir: Path, recipe: PretrainConfig, advance: Callable[[int], None] = lambda steps: None) -> None:
    """Train from scratch, or go on from `output_dir`; writes the model, the tokenizer, `recipe.json`, `log.jsonl`.

    `advance` is called with the number of steps that are done since the last call. Raises `FailedRunError` when the
    loss is not finite.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    tokenizer = _tokenizer(output_dir)
    model = OlmoeForCausalLM(base_config(tokenizer, recipe))
    model.set_experts_implementation(SORTED)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.95), weight_decay=recipe.weight_decay
    )
    start = _restore(output_dir, model, optimizer)
    (output_dir / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2) + "\n")
    advance(start)
    seconds = time.time()
    for step in range(start, recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, recipe)
        batch = torch.tensor([row for row, _ in packed_rows(f"{recipe.seed}/{step}", tokenizer, recipe, frequencies())])
        output = model(input_ids=batch, labels=batch)
        output.loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if not torch.isfinite(output.loss):
            raise FailedRunError(f"the loss is {output.loss.item()} at step {step}; the last checkpoint is kept")
        if (step + 1) % recipe.log_every == 0:
            _log(output_dir, step + 1, output, norm.item(), time.time() - seconds, recipe)
            seconds = time.time()
        if (step + 1) % recipe.checkpoint_every == 0 or step + 1 == recipe.steps:
            _save(output_dir, model, optimizer, step + 1)
        advance(1)
    model.config.output_router_logits = False
    model.to(torch.bfloat16).save_pretrained(output_dir / "base")
    tokenizer.save_pretrained(output_dir / "base")


def learning_rate(step: int, recipe: PretrainConfig) -> float:
    """Linear warm-up, then a cosine down to `final_learning_rate_share` of the peak."""
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    progress = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    floor = recipe.final_learning_rate_share
    return recipe.learning_rate * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))


def _tokenizer(output_dir: Path) -> PreTrainedTokenizerFast:
    if not (output_dir / "tokenizer.json").exists():
        texts = (
            f"{item.question}\n{item.answer}" for family in FAMILIES for item in items(family.name, "pretrain", 500)
        )
        train_tokenizer(texts).save_pretrained(output_dir)
    return PreTrainedTokenizerFast.from_pretrained(output_dir)


def packed_rows(
    seed: str, tokenizer: PreTrainedTokenizerFast, recipe: PretrainConfig, shares: Mapping[str, float]
) -> Iterator[tuple[list[int], list[str]]]:
    """The packed rows of one step, a pure function of `seed`, and every token's family; the last document is cut."""
    rng = random.Random(seed)
    names, weights = zip(*shares.items(), strict=True)
    for _ in range(recipe.rows):
        row: list[int] = []
        families: list[str] = []
        while len(row) < recipe.row_length:
            name = rng.choices(names, weights)[0]
            item = draw(name, "pretrain", rng)
            turns = [{"role": "user", "content": item.question}, {"role": "assistant", "content": item.answer}]
            row += tokenizer.encode(tokenizer.apply_chat_template(turns, tokenize=False))
            families += [name] * (len(row) - len(families))
        yield row[: recipe.row_length], families[: recipe.row_length]


def _log(output_dir: Path, step: int, output: Any, grad_norm: float, seconds: float, recipe: PretrainConfig) -> None:
    auxiliary = recipe.router_aux_loss_coef * output.aux_loss.item()
    tokens_per_step = recipe.rows * recipe.row_length
    entry = {
        "step": step,
        "tokens": step * tokens_per_step,
        "nll": round(output.loss.item() - auxiliary, 4),
        "auxiliary": round(auxiliary, 4),
        "grad_norm": round(grad_norm, 4),
        "tokens_per_s": round(recipe.log_every * tokens_per_step / seconds),
    }
    with (output_dir / "log.jsonl").open("a") as log:
        log.write(json.dumps(entry) + "\n")


def _save(output_dir: Path, model: OlmoeForCausalLM, optimizer: torch.optim.Optimizer, step: int) -> None:
    partial = output_dir / "checkpoint.partial"
    torch.save({"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, partial)
    partial.replace(output_dir / "checkpoint.pt")


def _restore(output_dir: Path, model: OlmoeForCausalLM, optimizer: torch.optim.Optimizer) -> int:
    """Load the last checkpoint where there is one; returns the step to go on from."""
    path = output_dir / "checkpoint.pt"
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])
