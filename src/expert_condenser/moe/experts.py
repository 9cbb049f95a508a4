"""`sorted_mm`: our experts implementation, for every family whose experts transformers can swap.

    AutoModelForCausalLM.from_pretrained(..., experts_implementation="sorted_mm")

On a CPU it runs `kernels.sorted_experts`; elsewhere, where it cannot be exact, and for the few tokens of a generation
step, stock `grouped_mm`. `sorted_mm_recompute` is the same with less memory and more time.

On a GPU stock code has two faults that this mends. The gradient of `bias[ids]` adds up in the precision of the weights,
one row after the other: with a condenser that every token chooses, twice the time of the layer, and in bfloat16 a
gradient that is 95 % off (docs/performance.md). And a grouped product refuses rows that are no whole 16 bytes: these
run `kernels.sorted_experts`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import SiLUActivation
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, grouped_mm_experts_forward

from expert_condenser.kernels.gating import Gate, SwiGlu
from expert_condenser.kernels.sorted_experts import Experts, Fused, compute_dtype, inner_products, sorted_experts
from expert_condenser.moe.slices import SlicedExperts

NAME, RECOMPUTE = "sorted_mm", "sorted_mm_recompute"
FEW_ROWS = 64
"""Rows per expert below which stock `grouped_mm` is faster where nothing is kept for a backward pass."""
_STOCK_GATE = "_default_apply_gate"  # the function has no other mark that it is `act(gate) * up` and nothing more


def sorted_mm_experts_forward(
    self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor, *, recompute: bool = False
) -> Tensor:
    """The experts' output `(T, D)`; the signature is that of transformers' experts interface."""
    if runs_stock(self, hidden_states, top_k_index):
        experts = WithEmbeddedBiases(self) if self.has_bias and not torch.compiler.is_compiling() else self
        stock: Tensor = grouped_mm_experts_forward(experts, hidden_states, top_k_index, top_k_weights)
        return stock
    with torch.autocast(hidden_states.device.type, enabled=False):
        experts = experts_of(self)._replace(recompute=recompute)
        return sorted_experts(hidden_states, top_k_weights, top_k_index, experts)


def inner_products_of(experts: Any, hidden: Tensor, gradient: Tensor) -> Tensor | None:
    """`<E_i(x), g>` `(T, E)` of all experts of a module that runs `sorted_mm`; None where it does not."""
    config = getattr(experts, "config", None)
    # Under this name a config keeps the implementation that it was given, and the experts' forward looks it up.
    ours = getattr(config, "_experts_implementation", None) in (NAME, RECOMPUTE)
    if not ours or hidden.device.type != "cpu" or not is_exact_for(experts):
        return None
    with torch.autocast(hidden.device.type, enabled=False):
        return inner_products(hidden, gradient, experts_of(experts))


def default_implementation(device: str | None = None) -> str | None:
    """The implementation for a device type: ours on a CPU or GPU; None, which is transformers' choice, elsewhere.

    `device` None is the accelerator where there is one. docs/performance.md has the measurements.
    """
    if device is None:
        device = str(torch.accelerator.current_accelerator(check_available=True) or "cpu")
    return NAME if device in ("cpu", "cuda") else None


def runs_stock(experts: Any, hidden: Tensor, indices: Tensor) -> bool:
    """Whether these tokens are for stock `grouped_mm`."""
    if not is_exact_for(experts):
        return True
    if hidden.device.type == "cpu":
        return is_decoding(experts, indices)
    return hidden.device.type != "cuda" or _takes_grouped_product(experts)


def is_exact_for(experts: Any) -> bool:
    """Whether `sorted_experts` computes what these experts do.

    Not with expert parallelism (ids of other ranks), a norm after the experts, an activation that learns, or
    under `torch.compile`, which would break the graph.
    """
    activation = getattr(experts, "act_fn", None)
    learns = isinstance(activation, nn.Module) and next(activation.parameters(), None) is not None
    # What transformers' own implementations ask before they trust the ids; there is no public sign on the module.
    special: bool = experts._is_expert_parallel or experts.has_post_expert_norm or learns
    return not special and not torch.compiler.is_compiling()


def is_decoding(experts: Any, indices: Tensor) -> bool:
    """Whether so few tokens come without a graph that the call costs more than the products: generation with a cache.

    Stock `grouped_mm` loops in C++, and is slow in a half precision without instructions.
    """
    if torch.is_grad_enabled() or indices.numel() >= FEW_ROWS * experts.num_experts:
        return False
    weight = next(experts.parameters())
    return compute_dtype(weight) == weight.dtype and _takes_grouped_product(experts)


def _takes_grouped_product(experts: Any) -> bool:
    """Torch has none of float64, and none of rows that are no whole 16 bytes."""
    if next(experts.parameters()).dtype == torch.float64:
        return False
    sizes = [(size, one.element_size()) for one in experts.parameters() if one.dim() == 3 for size in one.shape[1:]]
    return not any(size * bytes_each % 16 for size, bytes_each in sizes)


class WithEmbeddedBiases:
    """A transformers experts module whose biases give their rows by `embedding`, for its forward.

    The rows are those of `bias[ids]`; the gradient is a sum in float32, and not one row after the other.
    """

    def __init__(self, experts: Any) -> None:
        self._experts = experts

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._experts, name)
        return EmbeddedRows(value) if name.endswith("proj_bias") else value


class EmbeddedRows:
    """A table `(E, N)` that is read by ids."""

    def __init__(self, table: Tensor) -> None:
        self._table = table

    def __getitem__(self, ids: Tensor) -> Tensor:
        return nn.functional.embedding(ids, self._table)


def experts_of(module: Any) -> Experts:
    """A transformers experts module as `sorted_experts` takes it."""
    names = ["gate_up_proj" if module.has_gate else "up_proj", "down_proj"]
    names += [f"{name}_bias" for name in names] if module.has_bias else []
    return with_slices(module, names, gate_of(module), module.is_transposed)


def with_slices(module: Any, names: Sequence[str], gate: Gate, transposed: bool) -> Experts:
    """The fused weights of these names, and the slices that train in their place where there are any."""
    if not isinstance(module, SlicedExperts) or module.rest_trains:  # then a gradient goes to both
        return Experts(Fused(*(getattr(module, name) for name in names)), gate, transposed)
    read: Any = zip(*map(module.read, names), strict=True)
    weights, slices = (Fused(*tensors) for tensors in read)
    return Experts(weights, gate, transposed, slices, module.ids())


def gate_of(module: Any) -> Gate:
    """The activation between the projections; the usual one, `silu(gate) * up`, has a derivative by hand."""
    if not module.has_gate:
        return Gate(module.act_fn)
    # A family's own activation is a method of this name in the contract of `use_experts_implementation`.
    activation = module._apply_gate
    if activation.__name__ == _STOCK_GATE and is_silu(module.act_fn):
        return SwiGlu()
    return Gate(activation)


def is_silu(activation: Any) -> bool:
    """Whether a gate is the usual one, as torch or transformers have it."""
    return isinstance(activation, nn.SiLU | SiLUActivation)


def register_implementation() -> None:
    """Make transformers know both names (done when this module is imported)."""
    ALL_EXPERTS_FUNCTIONS.register(NAME, sorted_mm_experts_forward)
    ALL_EXPERTS_FUNCTIONS.register(RECOMPUTE, partial(sorted_mm_experts_forward, recompute=True))


def register_for_quantised() -> None:
    """Make transformers know both names for quantised experts too, which only a GPU runs: stock code."""
    from transformers.integrations.finegrained_fp8 import ALL_FP8_EXPERTS_FUNCTIONS  # imports every quantiser

    for name in (NAME, RECOMPUTE):
        ALL_FP8_EXPERTS_FUNCTIONS.register(name, ALL_FP8_EXPERTS_FUNCTIONS["grouped_mm"])


register_implementation()
