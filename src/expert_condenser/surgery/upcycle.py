"""A MoE model from a dense one that computes the same: every FFN cut into shards, every shard copied (*ours*).

An FFN `y = W_d (act(W_g x) * (W_u x))` of F hidden units is the sum of G shards of F / G units each. N copies of the
shards are E = G N experts. The router has the same row for all shards of a copy, so that the K = G m experts of a token
are m whole copies, and renormalised weights of a copy's shards are equal:

    sum_{c in m copies} p_c / (G sum p) sum_j G E_j(x) = y        with W_d times G

whatever the rows are. Rows of copies differ by chance, since equal ones would tie. After Sparse Upcycling
(arXiv 2212.05055), which copies whole FFNs.
"""

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from expert_condenser.checkpoint.describe import save_stock
from expert_condenser.checkpoint.load import load_model, load_tokenizer
from expert_condenser.errors import SurgeryError
from expert_condenser.moe.layers import MoELayer, moe_layers
from expert_condenser.surgery.dense_types import moe_config

TOLERANCE = 1e-5
"""Of the logits, relative to the largest, in float32."""


@dataclass(frozen=True)
class Shape:
    """How an FFN becomes experts."""

    shards: int
    copies: int
    top_k: int | None = None
    """Experts of a token, a multiple of the shards; None: one copy."""
    router_std: float = 0.02
    """Of the rows that tell copies apart."""
    router_noise: float = 0.0
    """Of what every expert's row has besides: above 0 the model is no longer the dense one."""
    seed: int = 0

    @property
    def num_experts(self) -> int:
        """E."""
        return self.shards * self.copies

    @property
    def chosen(self) -> int:
        """K."""
        return self.shards if self.top_k is None else self.top_k

    def check(self, width: int) -> None:
        """Raise `SurgeryError` where an FFN of this width cannot be cut so, or a token would get a part of a copy."""
        if self.shards < 1 or self.copies < 1 or self.num_experts < 2:
            raise SurgeryError(f"shards x copies are 2 experts or more; got {self.shards} x {self.copies}")
        if width % self.shards:
            raise SurgeryError(f"an FFN of {width} units is cut into equal shards; {self.shards} is no divisor")
        if self.chosen % self.shards or not self.shards <= self.chosen <= self.num_experts:
            raise SurgeryError(
                f"a token gets whole copies, so top_k is a multiple of {self.shards} shards up to {self.num_experts}; "
                f"got {self.chosen}"
            )
        if not 0 < self.router_std < math.inf or not 0 <= self.router_noise < math.inf:
            raise SurgeryError(
                f"router_std is above 0, since equal rows tie, and router_noise 0 or more; got {self.router_std} and "
                f"{self.router_noise}"
            )


@torch.no_grad()
def upcycled(dense: nn.Module, shape: Shape) -> Any:
    """The MoE model of a dense one, with the same first forward unless `router_noise`; `dense` stays as it is.

    Raises `SurgeryError` for a family whose attention no MoE type has, and for a shape that does not fit.
    """
    config: Any = dense.config
    width = getattr(config, "intermediate_size", 0)
    new = moe_config(config, shape.num_experts, shape.chosen, width // max(shape.shards, 1))
    shape.check(width)
    model = AutoModelForCausalLM.from_config(new, dtype=dense.dtype)
    weights = dense.state_dict()
    state = {name: tensor.clone() for name, tensor in weights.items() if ".mlp." not in name}
    generator = torch.Generator().manual_seed(shape.seed)
    for layer in moe_layers(model):
        state |= _experts(weights, layer, shape)
        state |= dict(_idle(model, layer))
        state[f"{layer.name}.weight"] = router_rows(shape, config.hidden_size, generator)
    missing, strange = model.load_state_dict(state, strict=False)
    if missing or strange:
        raise SurgeryError(f"{new.model_type} has other weights than {config.model_type}: {[*missing, *strange][:4]}")
    model.generation_config = dense.generation_config
    return model.train(dense.training)


def router_rows(shape: Shape, width: int, generator: torch.Generator) -> Float[Tensor, "E D"]:
    """A row per copy, the same for each of its shards, and the noise of every expert."""
    rows = torch.randn(shape.copies, width, generator=generator) * shape.router_std
    noise = torch.randn(shape.num_experts, width, generator=generator) * shape.router_noise
    return rows.repeat_interleave(shape.shards, dim=0) + noise


def _experts(weights: Mapping[str, Tensor], layer: MoELayer, shape: Shape) -> dict[str, Tensor]:
    """The fused weights of a layer's experts: copy after copy, each of all shards."""
    gate, up, down = (weights[f"{layer.block}.{name}_proj.weight"] for name in ("gate", "up", "down"))
    halves = [torch.cat(pair) for pair in zip(gate.chunk(shape.shards), up.chunk(shape.shards), strict=True)]
    columns = [part * shape.shards for part in down.chunk(shape.shards, dim=1)]
    return {
        f"{layer.block}.experts.gate_up_proj": torch.stack(halves * shape.copies),
        f"{layer.block}.experts.down_proj": torch.stack(columns * shape.copies),
    }


def _idle(model: nn.Module, layer: MoELayer) -> Iterator[tuple[str, Tensor]]:
    """The weights of a shared expert that is there and adds nothing: it gets no gradient either."""
    for name, tensor in model.get_submodule(layer.block).named_parameters():
        if name.startswith("shared_expert"):
            yield f"{layer.block}.{name}", torch.zeros_like(tensor)


@torch.no_grad()
def difference(dense: nn.Module, model: nn.Module) -> float:
    """The largest difference of any logit in float32, relative to the largest logit, on random tokens."""
    generator = torch.Generator().manual_seed(0)
    config: Any = dense.config
    ids = torch.randint(0, config.vocab_size, (2, 48), generator=generator)
    whole, experts = (copy.deepcopy(one).float().eval() for one in (dense, model))
    experts.set_experts_implementation("eager")  # type: ignore[operator]  # torch's grouped product wants 16-byte rows
    wanted, found = (one(input_ids=ids, use_cache=False).logits for one in (whole, experts))
    return float((found - wanted).abs().max() / wanted.abs().max())


def upcycle(source: str, shape: Shape, folder: Path) -> float:
    """Write the MoE model of the dense one in `source`; returns the relative `difference` of the logits.

    Raises `SurgeryError` as `upcycled`, and where the logits differ by more than `TOLERANCE` without `router_noise`;
    then nothing is written.
    """
    dense = load_model(source, "auto")
    model = upcycled(dense, shape)
    apart = difference(dense, model)
    if shape.router_noise == 0 and not apart <= TOLERANCE:
        why = "this model has something that its MoE type computes otherwise"
        if model.dtype != torch.float32 and shape.shards & (shape.shards - 1):
            name = str(model.dtype).removeprefix("torch.")
            why = f"weights times {shape.shards} round in {name}; take a power of two, or a dense model in float32"
        raise SurgeryError(
            f"an upcycled model gives the logits of the dense one; those of {source} differ by {apart:.1e} of the "
            f"largest, and {TOLERANCE:g} is rounding: {why}"
        )
    made = {"model": source, **asdict(shape), "difference": apart}
    save_stock(model, load_tokenizer(source), folder, {"upcycled": made})
    return apart
