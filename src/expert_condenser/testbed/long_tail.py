"""A base model whose rarely used experts hold knowledge that no other expert has: `condenser testbed long_tail`.

The embedded base was trained with the load-balancing loss, so all its experts are used alike and none is rare. Here
its training goes on without that loss, and with one that teaches the routers where to send what: in every layer the
documents of `TAIL` go to the same few experts, all others elsewhere. The families of `TAIL` are made rare as well. So
the usage of experts has a long tail, and what the tail holds is known: it is those families.
"""

import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from transformers import OlmoeForCausalLM, PreTrainedTokenizerFast

from expert_condenser.checkpoint.load import base_model_path, load_model, load_tokenizer
from expert_condenser.data.procedural.families import draw, frequencies
from expert_condenser.data.sources import TESTBED
from expert_condenser.evaluation.backends.local import LocalBackend
from expert_condenser.evaluation.evaluate import evaluate
from expert_condenser.evaluation.generation import Generation
from expert_condenser.evaluation.tasks import load
from expert_condenser.functional.routing import RoutingConfig
from expert_condenser.moe.attach import attach
from expert_condenser.moe.layers import moe_layers
from expert_condenser.moe.usage import measure_usage
from expert_condenser.testbed.documents import packed_rows
from expert_condenser.testbed.recipes import PretrainConfig, learning_rate

TAIL = ("word_problems", "long_word_problems", "gcd", "aiw")
"""Families of the tail; the first two have the written arithmetic that the fine-tuning tasks need."""
TAIL_EXPERTS = 6
"""Experts of the tail in every layer: the last ones by index."""
_OUT = -1e4
"""A selection bias below every logit."""


@dataclass(frozen=True)
class LongTailConfig:
    """The recipe: how long training goes on, and how strongly the routers are taught."""

    steps: int = 200
    rows: int = 32
    row_length: int = 256
    learning_rate: float = 1.5e-3
    tail_share: float = 0.12
    """Share of the documents that are of `TAIL`; in the embedded base's pretraining it was 0.34."""
    routing_loss_coef: float = 0.5
    seed: int = 1
    log_every: int = 10


def tail_frequencies(share: float) -> dict[str, float]:
    """The pretraining's shares of the families, with those of `TAIL` scaled to `share` in all."""
    old = frequencies()
    tail = sum(old[name] for name in TAIL)
    return {name: value * (share / tail if name in TAIL else (1 - share) / (1 - tail)) for name, value in old.items()}


def routing_loss(logits: Sequence[Tensor], in_tail: Tensor) -> Tensor:
    """Nll of the right group of experts, in nats, mean over tokens `(T,)` and layers.

    A token of a tail family belongs to the last `TAIL_EXPERTS` experts, any other to the rest.
    """
    losses = []
    for layer in logits:  # (T, E)
        log_p = torch.log_softmax(layer.float(), dim=-1)
        tail, head = log_p[:, -TAIL_EXPERTS:].logsumexp(-1), log_p[:, :-TAIL_EXPERTS].logsumexp(-1)
        losses.append(-torch.where(in_tail, tail, head).mean())
    return torch.stack(losses).mean()


def train_long_tail(
    output_dir: Path, recipe: LongTailConfig, advance: Callable[[int], None] = lambda steps: None
) -> Path:
    """Go on from the embedded base; writes `base/`, `recipe.json`, `log.jsonl`, and returns the model's directory.

    `advance` is called with 1 after every step.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    base = base_model_path("testbed-v1")
    tokenizer = load_tokenizer(base)
    model = load_model(base, train=True).train()
    model.config.router_aux_loss_coef = 0.0
    schedule = PretrainConfig(
        steps=recipe.steps,
        rows=recipe.rows,
        row_length=recipe.row_length,
        learning_rate=recipe.learning_rate,
        warmup_steps=recipe.steps // 20,
        seed=recipe.seed,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.95), weight_decay=0.1)
    (output_dir / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2) + "\n")
    (output_dir / "log.jsonl").unlink(missing_ok=True)
    start = time.time()
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, schedule)
        nll, routing = _step(model, tokenizer, optimizer, step, recipe)
        if (step + 1) % recipe.log_every == 0:
            entry = {"step": step + 1, "nll": round(nll, 4), "routing_nll": round(routing, 4)}
            with (output_dir / "log.jsonl").open("a") as log:
                log.write(json.dumps({**entry, "seconds": round(time.time() - start)}) + "\n")
        advance(1)
    model.config.output_router_logits = False
    model.to(torch.bfloat16).save_pretrained(output_dir / "base")
    tokenizer.save_pretrained(output_dir / "base")
    return output_dir / "base"


def _step(
    model: OlmoeForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    optimizer: torch.optim.Optimizer,
    step: int,
    recipe: LongTailConfig,
) -> tuple[float, float]:
    """One optimizer step; returns its nll and its routing loss."""
    seed = f"long_tail/{recipe.seed}/{step}"
    rows = list(packed_rows(seed, tokenizer, recipe.rows, recipe.row_length, tail_frequencies(recipe.tail_share)))
    batch = torch.tensor([row.ids for row in rows])
    in_tail = torch.tensor([[name in TAIL for name in row.families] for row in rows]).flatten()
    output = model(input_ids=batch, labels=batch, output_router_logits=True)
    routing = routing_loss(output.router_logits, in_tail)
    (output.loss + recipe.routing_loss_coef * routing).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return output.loss.item(), routing.item()


def dissociation(path: Path, names: Sequence[str], count: int) -> dict[str, dict[str, float]]:
    """Who holds what: accuracy on families with every expert, without those of the tail, and without as many others.

    An expert is taken out by a selection bias that no logit outweighs. Returns `{"whole", "without tail", "without
    others"}`, each with the share of right answers to the first `count` validation items of every family.
    """
    tail = list(range(load_model(path).config.num_experts))[-TAIL_EXPERTS:]
    others = list(range(TAIL_EXPERTS))
    return {
        "whole": _accuracy_without(path, [], names, count),
        "without tail": _accuracy_without(path, tail, names, count),
        "without others": _accuracy_without(path, others, names, count),
    }


def tail_usage(path: Path, share: float, documents: int = 200) -> list[float]:
    """The tail experts' share of all selections in every layer, on documents of a mixture with `share` of `TAIL`."""
    model, tokenizer = load_model(path), load_tokenizer(path)
    rng = random.Random(0)
    names, weights = zip(*tail_frequencies(share).items(), strict=True)
    drawn = [draw(name, "pretrain", rng) for name in rng.choices(names, weights, k=documents)]
    counts = measure_usage(
        model, tokenizer, [tokenizer(f"{i.question}\n{i.answer}")["input_ids"] for i in drawn]
    ).counts
    return (counts[:, -TAIL_EXPERTS:].sum(1) / counts.sum(1)).tolist()


def _accuracy_without(path: Path, experts: list[int], names: Sequence[str], count: int) -> dict[str, float]:
    model, tokenizer = load_model(path), load_tokenizer(path)
    attach(model, RoutingConfig(preset="paper"))
    for layer in moe_layers(model):
        layer.router.selection_bias[experts] = _OUT
    tasks = [load(f"{TESTBED}{name}", limit=count, split="validation") for name in names]
    backend = LocalBackend(f"{path.name} without experts {experts}", tokenizer, model=model)
    with TemporaryDirectory() as folder:
        results = evaluate(backend, tokenizer, tasks, Path(folder), Generation())
    return {task.removeprefix(TESTBED): result["accuracy"] for task, result in results["tasks"].items()}
