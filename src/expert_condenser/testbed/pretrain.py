"""Pretrain the testbed's base models: `condenser testbed pretrain --output_dir DIR`.

A small OLMoE learns a mixture of procedural tasks, and facts where the recipe has them. Every batch is a pure function
of its step, so a killed run goes on where its last checkpoint was.
"""

import json
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import OlmoeForCausalLM, PreTrainedTokenizerFast

from expert_condenser.checkpoint.guard import states_named
from expert_condenser.checkpoint.load import base_model_path, load_tokenizer
from expert_condenser.data.procedural.families import FAMILIES, items, shares
from expert_condenser.errors import FailedRunError, TrainingError
from expert_condenser.files import append_line, read_json, replacing, write_json, write_text
from expert_condenser.moe.experts import NAME as SORTED
from expert_condenser.testbed.documents import Row, packed_rows
from expert_condenser.testbed.pools import Documents, PooledRouting, number_documents
from expert_condenser.testbed.recipes import PretrainConfig, base_config, learning_rate
from expert_condenser.testbed.replicas import add_gradients, replicas
from expert_condenser.testbed.tokenizer import train_tokenizer

CHECKPOINT, LOG, RECIPE = "checkpoint.pt", "log.jsonl", "recipe.json"


class Shard(NamedTuple):
    """A part of one step's rows, and their documents where they have pools."""

    ids: Tensor
    documents: Documents | None


class Losses(NamedTuple):
    """What a step minimises, the sum of both, in numbers."""

    nll: float
    auxiliary: float


def pretrain(output_dir: Path, recipe: PretrainConfig, advance: Callable[[int], None] = lambda steps: None) -> None:
    """Train from scratch, or go on from `output_dir`; writes the model, the tokenizer, `recipe.json`, `log.jsonl`.

    `advance` is called with the number of steps that are done since the last call. Raises `FailedRunError` when the
    loss is not finite, `TrainingError` where `output_dir` holds a run of another recipe.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    _claim(output_dir, recipe)
    torch.manual_seed(recipe.seed)
    tokenizer = _tokenizer(output_dir, recipe)
    model = OlmoeForCausalLM(base_config(tokenizer, recipe))
    model.set_experts_implementation(SORTED)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.95), weight_decay=recipe.weight_decay
    )
    start = _restore(output_dir, model, optimizer)
    advance(start)
    seconds = time.time()
    with Shards(model, recipe) as shards:
        for step, batch in enumerate(_batches(tokenizer, recipe, start), start):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, recipe)
            losses = shards.backward(batch)
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if not torch.isfinite(norm):
                raise FailedRunError(f"the loss is {losses.nll} at step {step}; the last checkpoint is kept")
            if (step + 1) % recipe.log_every == 0:
                _log(output_dir, step + 1, losses, norm.item(), time.time() - seconds, recipe)
                seconds = time.time()
            if (step + 1) % recipe.checkpoint_every == 0 or step + 1 == recipe.steps:
                _save(output_dir, model, optimizer, step + 1)
            advance(1)
    model.config.output_router_logits = False
    model.to(torch.bfloat16).save_pretrained(output_dir / "base")
    tokenizer.save_pretrained(output_dir / "base")


class Shards:
    """The forward and backward pass of a batch, each shard of it in a thread of its own."""

    def __init__(self, model: OlmoeForCausalLM, recipe: PretrainConfig) -> None:
        self.coefficient, self.count = recipe.router_aux_loss_coef, recipe.shards
        self.outside_coefficient = recipe.outside_loss_coef
        self.models = replicas(model, recipe.shards)
        self.pooled: list[PooledRouting | None] = [None] * recipe.shards
        if recipe.pool_sizes is not None:
            self.pooled = [PooledRouting(replica, by_excess=recipe.pools_by_excess) for replica in self.models]

    def __enter__(self) -> "Shards":
        self._open = ExitStack()
        self._threads = self._open.enter_context(ThreadPoolExecutor(self.count))
        for pooled in filter(None, self.pooled):
            self._open.enter_context(pooled)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def backward(self, batch: list[Shard]) -> Losses:
        """Leave the gradient of the mean over the shards in the model; the losses are such means too."""
        losses = list(self._threads.map(self._backward, self.models, self.pooled, batch))
        add_gradients(self.models)
        nll, auxiliary = (sum(values) for values in zip(*losses, strict=True))
        return Losses(nll, auxiliary)

    def _backward(self, model: OlmoeForCausalLM, pooled: PooledRouting | None, shard: Shard) -> Losses:
        if pooled is not None and shard.documents is not None:
            pooled.start(shard.documents)
        output = model(input_ids=shard.ids, labels=shard.ids)
        if pooled is None:  # the model's own loss has the auxiliary one in it
            auxiliary = self.coefficient * output.aux_loss
            nll = output.loss - auxiliary
        else:
            auxiliary = self.coefficient * torch.stack(pooled.balance).mean()
            auxiliary = auxiliary + self.outside_coefficient * torch.stack(pooled.outside).mean()
            nll = output.loss
        ((nll + auxiliary) / self.count).backward()
        return Losses(nll.item() / self.count, auxiliary.item() / self.count)


def _batches(tokenizer: PreTrainedTokenizerFast, recipe: PretrainConfig, start: int) -> Iterator[list[Shard]]:
    """The batches of the steps from `start` on; the next one is made while the last one trains."""
    with ThreadPoolExecutor(1) as maker:
        coming = maker.submit(make_batch, tokenizer, recipe, start)
        for step in range(start, recipe.steps):
            batch = coming.result()
            coming = maker.submit(make_batch, tokenizer, recipe, step + 1)
            yield batch


def make_batch(tokenizer: PreTrainedTokenizerFast, recipe: PretrainConfig, step: int) -> list[Shard]:
    """The shards of a step, a pure function of the recipe and the step."""
    seed = f"{recipe.seed}/{step}"
    rng = random.Random(f"{seed}/pools")
    rows = list(packed_rows(seed, tokenizer, recipe.rows, recipe.row_length, shares(recipe.facts)))
    size = recipe.rows // recipe.shards
    parts = [rows[start : start + size] for start in range(0, recipe.rows, size)]
    return [Shard(torch.tensor([row.ids for row in part]), _documents(part, recipe, rng)) for part in parts]


def _documents(rows: list[Row], recipe: PretrainConfig, rng: random.Random) -> Documents | None:
    if recipe.pool_sizes is None:
        return None
    return number_documents([row.documents for row in rows], recipe.pool_sizes, rng)


def _claim(output_dir: Path, recipe: PretrainConfig) -> None:
    """Write `recipe.json`; where a run goes on, it must be that run's, but for the number of steps."""
    path, wanted = output_dir / RECIPE, json.loads(json.dumps(asdict(recipe)))  # a tuple is a list there
    if (output_dir / CHECKPOINT).exists() and path.exists():
        made = {**asdict(PretrainConfig()), **read_json(path)}
        changed = [name for name in wanted if name != "steps" and made[name] != wanted[name]]
        if changed:
            raise TrainingError(
                f"a run goes on with its own recipe, but {path} has another {', '.join(changed)}; "
                "name another --output_dir"
            )
    write_json(path, wanted)


def _tokenizer(output_dir: Path, recipe: PretrainConfig) -> PreTrainedTokenizerFast:
    """The run's own, else the embedded base's where there are facts, else one that is learnt from the families."""
    if not (output_dir / "tokenizer.json").exists():
        _new_tokenizer(recipe).save_pretrained(output_dir)
    return PreTrainedTokenizerFast.from_pretrained(output_dir)


def _new_tokenizer(recipe: PretrainConfig) -> Any:
    if recipe.facts:
        return load_tokenizer(base_model_path())
    return train_tokenizer(
        f"{item.question}\n{item.answer}" for family in FAMILIES for item in items(family.name, "pretrain", 500)
    )


def _log(output_dir: Path, step: int, losses: Losses, grad_norm: float, seconds: float, recipe: PretrainConfig) -> None:
    tokens_per_step = recipe.rows * recipe.row_length
    entry = {
        "step": step,
        "tokens": step * tokens_per_step,
        "nll": round(losses.nll, 4),
        "auxiliary": round(losses.auxiliary, 4),
        "grad_norm": round(grad_norm, 4),
        "tokens_per_s": round(recipe.log_every * tokens_per_step / seconds),
    }
    append_line(output_dir / LOG, entry)


def _save(output_dir: Path, model: OlmoeForCausalLM, optimizer: torch.optim.Optimizer, step: int) -> None:
    with replacing(output_dir / CHECKPOINT) as partial:
        torch.save({"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, partial)


def _restore(output_dir: Path, model: OlmoeForCausalLM, optimizer: torch.optim.Optimizer) -> int:
    """Load the last checkpoint where there is one, and forget what was logged later; the step to go on from."""
    path, log, step = output_dir / CHECKPOINT, output_dir / LOG, 0
    if path.exists():
        with states_named(path):
            state = torch.load(path, weights_only=True)
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            step = int(state["step"])
    if log.exists():
        whole = [line for line in log.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
        write_text(log, "".join(line for line in whole if json.loads(line)["step"] <= step))
    return step
