"""The experts of a MoE layer as one differentiable function on token-expert pairs that are sorted by expert.

    y_t = sum_k w_tk E_i(x_t),  i = indices_tk,        E_i(x) = down_i gate(up_i x)

Every expert is a few dense matrix products over its own tokens. Of the pairs only `up_i x` is kept for the backward
pass: rows are gathered again, the activation is computed again, and the gradient of a weight, `<dL/dy_t, E_i(x_t)>`,
is `<down_i^T dL/dy_t, gate(up_i x_t)>`, from a product that is needed anyway. With `recompute` not even that is kept.
An expert's weight gradient is written where it belongs, once. Written for the CPU, where launching a product costs
little and memory traffic much.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from expert_condenser.kernels.buffers import recycled, scratch
from expert_condenser.kernels.gating import Gate


class Fused(NamedTuple):
    """One tensor for all experts of each kind, the first dimension is E (or N experts that train)."""

    up: Float[Tensor, "E P D"]
    down: Float[Tensor, "E D I"]
    up_bias: Float[Tensor, "E P"] | None = None
    down_bias: Float[Tensor, "E D"] | None = None


class Experts(NamedTuple):
    """The experts of a layer: their weights, and how they are used."""

    weights: Fused
    gate: Gate
    transposed: bool = False
    """Weights are `(E, D, P)` and `(E, I, D)`."""
    slices: Fused | None = None
    """The slices of `weights` that train, in place of all of them."""
    slice_ids: tuple[int, ...] = ()
    recompute: bool = False
    """Keep nothing of the pairs, and compute `up_i x` again in the backward pass."""

    def right_factors(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Of every expert the projection up `(D, P)` and the projection down `(I, D)`."""
        up, down = self.weights.up, self.weights.down
        return (up.unbind(), down.unbind()) if self.transposed else (up.mT.unbind(), down.mT.unbind())


class Pairs(NamedTuple):
    """Token-expert pairs sorted by expert, pairs of one expert by token."""

    order: Int[Tensor, " S"]
    """Which of the `T K` flat pairs comes here."""
    place: Int[Tensor, "T K"]
    """Where each pair went."""
    tokens: Int[Tensor, " S"]
    counts: list[int]

    def used(self) -> list[int]:
        """The experts that any token chose."""
        return [expert for expert, count in enumerate(self.counts) if count]

    def gather(self, hidden: Float[Tensor, "T D"]) -> Float[Tensor, "S D"]:
        """The token of every pair, in scratch memory."""
        return torch.index_select(hidden, 0, self.tokens, out=scratch((len(self.tokens), hidden.shape[1]), hidden))

    def combine(
        self, values: Float[Tensor, "S D"], weights: Float[Tensor, "T K"] | None = None
    ) -> Float[Tensor, "T D"]:
        """Sum the K rows of every token, weighed."""
        return torch.nn.functional.embedding_bag(self.place, values, mode="sum", per_sample_weights=weights)


def sort_pairs(indices: Int[Tensor, "T K"], num_experts: int) -> Pairs:
    """Sort the choices of all tokens by expert."""
    flat = indices.reshape(-1)
    order = torch.sort(flat, stable=True).indices
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    counts = torch.bincount(flat, minlength=num_experts).tolist()
    return Pairs(order, place.view_as(indices), order // indices.shape[-1], counts)


def sorted_experts(
    hidden: Float[Tensor, "T D"], weights: Float[Tensor, "T K"], indices: Int[Tensor, "T K"], experts: Experts
) -> Float[Tensor, "T D"]:
    """The mixture of the chosen experts, in the dtype of `hidden`.

    Computes in the dtype of the experts' weights, and in float32 where they are of a half precision that the CPU
    has no instructions for. Differentiable once, by `hidden`, `weights` and the experts' weights (or slices).
    """
    if not torch.is_grad_enabled():
        experts = experts._replace(recompute=True)  # nothing to keep for
    trained = experts.weights if experts.slices is None else experts.slices
    return SortedExperts.apply(hidden, weights, *trained, indices, experts)  # type: ignore[no-untyped-call]


@torch.no_grad()
def inner_products(
    hidden: Float[Tensor, "T D"], gradient: Float[Tensor, "T D"], experts: Experts
) -> Float[Tensor, "T E"]:
    """`<E_i(x_t), g_t>` of every token and every expert, without gradient; memory is that of one expert at a time.

    As in the backward pass of `SortedExperts`, `E_i(x)` itself is not needed: it is `<gate(up_i x), down_i^T g>`.
    """
    fused = experts.weights
    dtype = compute_dtype(fused.up)
    inputs, gradient = hidden.to(dtype), gradient.to(dtype)
    products = torch.empty(len(fused.up), len(hidden), dtype=dtype, device=hidden.device)
    for expert, (up, down) in enumerate(zip(*experts.right_factors(), strict=True)):
        projected = scratch((len(hidden), up.shape[1]), inputs)
        multiply(inputs, up.to(dtype), projected, bias_of(fused.up_bias, expert))
        of_activated = gradient @ down.to(dtype).T
        torch.sum(of_activated.mul_(experts.gate.forward(projected)), dim=-1, out=products[expert])
        if fused.down_bias is not None:
            products[expert] += gradient @ fused.down_bias[expert].to(dtype)
    return products.T


class SortedExperts(torch.autograd.Function):
    """See the module; the four tensors after `weights` are those that get a gradient."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu")
    def forward(  # noqa: D102
        ctx: Any, hidden: Tensor, weights: Tensor, *others: Any
    ) -> Tensor:
        indices, experts = others[4:]
        fused: Fused = experts.weights
        pairs = sort_pairs(indices, len(fused.up))
        dtype = compute_dtype(fused.up)
        ups, downs = experts.right_factors()
        size = (len(pairs.tokens), ups[0].shape[1])
        projected = scratch(size, fused.up, "projected") if experts.recompute else fused.up.new_empty(size)
        rows = pairs.gather(hidden.to(dtype))  # every expert's inputs, and in their place then its outputs
        of_expert, before = torch.split(rows, pairs.counts), torch.split(projected, pairs.counts)
        for e in pairs.used():
            multiply(of_expert[e], ups[e].to(dtype), before[e], bias_of(fused.up_bias, e))
            activated = experts.gate.forward(before[e].to(dtype))
            multiply(activated, downs[e].to(dtype), of_expert[e], bias_of(fused.down_bias, e))
        ctx.save_for_backward(hidden, weights, indices, None if experts.recompute else projected, *fused)
        ctx.experts = experts._replace(weights=None, slices=None)
        return pairs.combine(rows, weights.to(dtype)).to(hidden.dtype)

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        hidden, weights, indices, projected, *fused = ctx.saved_tensors
        experts = ctx.experts._replace(weights=Fused(*fused))
        # Sorted again: under checkpointing, what was saved is of the recomputation, and its choice may differ.
        pairs = sort_pairs(indices, len(fused[0]))
        gradients = Gradients(experts, ctx.needs_input_grad[2:6])
        dtype = compute_dtype(fused[0])
        ups, downs = experts.right_factors()
        inputs = hidden.to(dtype)
        if projected is None:
            projected = project_up(inputs, experts, pairs)
        gates = weights.reshape(-1)[pairs.order].to(dtype)[:, None]
        of_gates = gates.new_empty(len(gates))
        rows = pairs.gather(gradient.to(dtype))  # every expert's gradient, and in its place then that of its inputs
        tokens, before, of_expert, gate, of_gate = (
            torch.split(tensor, pairs.counts) for tensor in (pairs.tokens, projected, rows, gates, of_gates)
        )
        for e in pairs.used():
            g = of_expert[e]
            of_activated = g @ downs[e].to(dtype).T
            activated, of_projected = experts.gate.backward(before[e].to(dtype), of_activated)
            torch.sum(of_activated.mul_(activated), dim=-1, out=of_gate[e])
            if experts.weights.down_bias is not None:
                of_gate[e].add_(g @ experts.weights.down_bias[e].to(dtype))
            of_projected *= gate[e]
            if gradients.wants(e):
                gradients.write_down(e, activated.mul_(gate[e]), g, gate[e])
                gradients.write_up(e, inputs.index_select(0, tokens[e]), of_projected)
            if ctx.needs_input_grad[0]:  # not in the first layer where all below it is frozen (ESFT)
                torch.mm(of_projected, ups[e].to(dtype).T, out=g)
        of_hidden = pairs.combine(rows).to(hidden.dtype) if ctx.needs_input_grad[0] else None
        of_weights = of_gates[pairs.place].to(weights.dtype)
        return of_hidden, of_weights, *gradients.finish(pairs.counts), None, None


def project_up(hidden: Float[Tensor, "T D"], experts: Experts, pairs: Pairs) -> Float[Tensor, "S P"]:
    """`up_i x` of every pair, in scratch memory."""
    fused, ups = experts.weights, experts.right_factors()[0]
    projected = scratch((len(pairs.tokens), ups[0].shape[1]), fused.up, "projected")
    for e, (rows, out) in enumerate(
        zip(torch.split(pairs.gather(hidden), pairs.counts), torch.split(projected, pairs.counts), strict=True)
    ):
        multiply(rows, ups[e].to(hidden.dtype), out, bias_of(fused.up_bias, e))
    return projected


class Gradients:
    """The gradients of the fused tensors, each expert's written once."""

    def __init__(self, experts: Experts, wanted: Sequence[bool]) -> None:
        ids = experts.slice_ids or range(len(experts.weights.up))
        self.slots = {expert: slot for slot, expert in enumerate(ids)} if any(wanted) else {}
        self.transposed = experts.transposed
        self.tensors = Fused(
            *(
                None if weight is None or not want else recycled((len(ids), *weight.shape[1:]), weight)
                for weight, want in zip(experts.weights, wanted, strict=True)
            )  # type: ignore[arg-type]
        )

    def wants(self, expert: int) -> bool:
        """Whether any tensor of the expert gets a gradient."""
        return expert in self.slots

    def write_up(self, expert: int, x: Float[Tensor, "N D"], of_projected: Float[Tensor, "N P"]) -> None:
        """The projection up: `x` is its input, `of_projected` the gradient of its output."""
        slot = self.slots[expert]
        if self.tensors.up is not None:
            left, right = (x, of_projected) if self.transposed else (of_projected, x)
            multiply(left.T, right, self.tensors.up[slot])
        if self.tensors.up_bias is not None:
            self.tensors.up_bias[slot] = of_projected.sum(dim=0)

    def write_down(
        self, expert: int, weighed: Float[Tensor, "N I"], gradient: Float[Tensor, "N D"], gates: Float[Tensor, "N 1"]
    ) -> None:
        """The projection down: `weighed` is its input times the gate weights, `gradient` that of the tokens."""
        slot = self.slots[expert]
        if self.tensors.down is not None:
            left, right = (weighed, gradient) if self.transposed else (gradient, weighed)
            multiply(left.T, right, self.tensors.down[slot])
        if self.tensors.down_bias is not None:
            self.tensors.down_bias[slot] = (gradient.T @ gates)[:, 0]

    def finish(self, counts: Sequence[int]) -> Fused:
        """All gradients; an expert without tokens has exactly zero."""
        for expert, slot in self.slots.items():
            if not counts[expert]:
                for tensor in self.tensors:
                    if tensor is not None:
                        tensor[slot].zero_()
        return self.tensors


def multiply(
    left: Float[Tensor, "A B"], right: Float[Tensor, "B C"], out: Float[Tensor, "A C"], bias: Tensor | None = None
) -> None:
    """`out = left right + bias`, cast to the dtype of `out` where that is another."""
    if out.dtype != left.dtype:
        out.copy_(left @ right if bias is None else torch.addmm(bias.to(left.dtype), left, right))
    elif bias is None:
        torch.mm(left, right, out=out)
    else:
        torch.addmm(bias.to(left.dtype), left, right, out=out)


def bias_of(bias: Float[Tensor, "E N"] | None, expert: int) -> Float[Tensor, " N"] | None:
    """An expert's bias, where there are any."""
    return None if bias is None else bias[expert]


def compute_dtype(weight: Tensor) -> torch.dtype:
    """The dtype of the products: that of the weights, or float32 where the CPU could only emulate it.

    Without AVX-512 or AMX, PyTorch's half-precision products are a hundred times slower than those of float32.
    """
    emulated = weight.device.type == "cpu" and weight.dtype.itemsize == 2 and not has_instructions(weight.dtype)
    return torch.float32 if emulated else weight.dtype


@cache
def has_instructions(dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies matrices of bfloat16 or float16 natively on this CPU."""
    # oneDNN's own answer; what is public, `torch.backends.cpu.get_cpu_capability`, tells AVX-512 from AVX2 and no more.
    name = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}[dtype]
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return hasattr(torch.ops.mkldnn, name) and bool(getattr(torch.ops.mkldnn, name)())
