"""`smt`: Sparse Matrix Tuning, arXiv 2405.15525: train the blocks of Q, K and V with the largest warm-up gradient.

The warm-up is a look at the loss on the first rows, with the weights as they are (*ours*): the absolute gradients of
its micro-batches are added up in every block of l by l, and the blocks with the largest mean train. All else is frozen.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from expert_condenser.errors import TrainingError, UnsupportedModelError
from expert_condenser.methods.base import Config, Method
from expert_condenser.moe.blocks import BLOCKS, Place, block_view, places_of, train_blocks
from expert_condenser.moe.layers import moe_layers
from expert_condenser.moe.parameters import is_adapter, parameter_groups
from expert_condenser.moe.probe import Batch, in_evaluation, shares_of_loss

_QKV = re.compile(r"(^|\.)(q|k|v|qkv|query|key|value|query_key_value|Wqkv|q_[ab]|kv_[ab])(_proj(_with_mqa)?)?$")
_FILE = "smt_blocks.json"


@dataclass(frozen=True)
class SmtConfig(Config):
    """Which blocks train."""

    smt_share: float = field(default=0.05, metadata={"help": "Share of the blocks of Q, K and V that train."})
    smt_block: int = field(default=256, metadata={"help": "Side of a block; it divides the sides of Q, K and V."})
    smt_rows: int = field(default=128, metadata={"help": "Rows of the training data whose gradient ranks the blocks."})

    def __post_init__(self) -> None:
        """Raise `TrainingError` where an option has no meaning."""
        if not 0 < self.smt_share <= 1:
            raise TrainingError(f"smt_share is a share of the blocks, above 0 and at most 1; got {self.smt_share}")
        if self.smt_block < 1 or self.smt_rows < 1:
            raise TrainingError(
                f"smt_block and smt_rows are numbers, at least 1; got {self.smt_block} and {self.smt_rows}"
            )


def select_blocks(scores: Mapping[str, Float[Tensor, "_ _"]], share: float) -> dict[str, list[Place]]:
    """The blocks with the largest scores of all matrices together, `share` of them and at least one.

    Ties go to the matrix that comes first, then to the lower row and column.
    """
    flat = torch.cat([table.double().flatten() for table in scores.values()])
    count = max(1, round(share * len(flat)))
    chosen = torch.zeros(len(flat), dtype=torch.bool)
    chosen[flat.sort(descending=True, stable=True).indices[:count]] = True
    parts = torch.split(chosen, [table.numel() for table in scores.values()])
    named = zip(scores.items(), parts, strict=True)
    return {name: [(a, b) for a, b in part.view(table.shape).nonzero().tolist()] for (name, table), part in named}


def gradient_of_blocks(
    model: Any, matrices: Mapping[str, nn.Linear], batches: Sequence[Batch], size: int
) -> dict[str, Float[Tensor, "_ _"]]:
    """Mean absolute gradient of every block, added up over the batches; float64, on the CPU."""
    weights = [matrix.weight for matrix in matrices.values()]
    sums = [torch.zeros(len(w) // size, w.shape[1] // size, dtype=torch.float64) for w in weights]
    with in_evaluation(model), torch.enable_grad():
        for _, share in shares_of_loss(model, batches):
            for total, gradient in zip(sums, torch.autograd.grad(share, weights), strict=True):
                total += block_view(gradient.abs().contiguous(), size).double().mean(dim=(-1, -2)).cpu()
    return dict(zip(matrices, sums, strict=True))


class Smt(Method):
    """Some blocks of the attention's Q, K and V train."""

    Config = SmtConfig
    name = "smt"
    summary = "train the sub-matrices of Q, K and V with the largest gradients, freeze the rest"
    paper = "arXiv 2405.15525"
    trainable = "blocks of the attention's Q, K, V"
    default_router = "freeze"
    whole_weights = True

    def __init__(self, config: Any = None, phase: str | None = None) -> None:
        super().__init__(config, phase)
        self.chosen: dict[str, list[Place]] | None = None
        """The blocks that train, by the name of the matrix."""

    @property
    def probe_rows(self) -> int:
        """`smt_rows`, unless the blocks are chosen already."""
        return self.config.smt_rows if self.chosen is None else 0

    def probe(self, model: Any, batches: Sequence[Batch]) -> None:
        """Choose the blocks by their gradient."""
        _check_base(model)
        size = self.config.smt_block
        scores = gradient_of_blocks(model, matrices_of(model, size), batches, size)
        self.chosen = {name: places for name, places in select_blocks(scores, self.config.smt_share).items() if places}

    def select_trainable(self, model: nn.Module) -> None:
        """The chosen blocks alone."""
        _check_base(model)
        if self.chosen is None:
            raise TrainingError("smt trains blocks chosen by their gradient: call probe(model, batches) first")
        matrices = matrices_of(model, self.config.smt_block)
        if unknown := sorted(self.chosen.keys() - matrices.keys()):
            raise TrainingError(f"the blocks to train are of another model: this one has no {', '.join(unknown)}")
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.endswith(f".{BLOCKS}"))
        for name, places in self.chosen.items():
            if not places_of(matrices[name]):
                train_blocks(matrices[name], places, self.config.smt_block)

    def artifacts(self, model: nn.Module) -> dict[str, Any]:
        """`smt_blocks.json`: which blocks train, row and column in blocks."""
        return {_FILE: {"format_version": 1, "block": self.config.smt_block, "blocks": self.chosen}}

    def state_dict(self) -> dict[str, Any]:
        """Also the blocks that train."""
        return {**super().state_dict(), "blocks": self.chosen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Also take over the blocks that train."""
        super().load_state_dict(state)
        blocks = state["blocks"]
        self.chosen = None if blocks is None else {n: [(a, b) for a, b in places] for n, places in blocks.items()}


def _check_base(model: nn.Module) -> None:
    if any(is_adapter(name) for name, _ in model.named_parameters()):
        raise TrainingError("smt trains parts of the base's weights, and with an adapter the base stays: drop lora")


def matrices_of(model: nn.Module, size: int) -> dict[str, nn.Linear]:
    """The linear layers that make Q, K and V, by name.

    Raises `UnsupportedModelError` where there are none, `TrainingError` where blocks do not divide one.
    """
    groups = parameter_groups(model, moe_layers(model))
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and _QKV.search(name) and groups.get(f"{name}.weight") == "attention"
    }
    if not found:
        raise UnsupportedModelError(f"smt trains Q, K and V of the attention; {type(model).__name__} has none by name")
    for name, module in found.items():
        if module.out_features % size or module.in_features % size:
            raise TrainingError(
                f"smt_block divides the sides of Q, K and V; {name} is {module.out_features} by {module.in_features}, "
                f"and smt_block is {size}. Take a smaller one."
            )
    return found
