"""What the routers of a model are watched for: who was chosen, once per real token, in training forwards alone."""

import inspect
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from expert_condenser.errors import RoutingError
from expert_condenser.functional.routing import RoutingConfig, choose_experts, count_usage, mass_usage


def sum_dtype(device: torch.device) -> torch.dtype:
    """The dtype of sums of floats on a device: float64, except on Apple's GPUs (MPS), which have none."""
    return torch.float32 if device.type == "mps" else torch.float64


class Counter:
    """Running sums of one layer since the last `reset`, over the real tokens of training forwards.

    `counts` (E,) int64, or `mass` (E,) of `sum_dtype`. While the watch is detailed, also `gate_mass` (E,), the
    sum of the gate weights, and `changed` / `tokens`: on how many tokens the bias changed the experts.
    """

    counts: Int[Tensor, " E"]

    def __init__(self, num_experts: int) -> None:
        self.num_experts = num_experts
        self.reset(torch.device("cpu"))

    def reset(self, device: torch.device | None = None) -> None:
        """Start again from zero, where the sums are or on `device`: no copy between devices in the forward."""
        device = self.counts.device if device is None else device
        self.counts = torch.zeros(self.num_experts, dtype=torch.int64, device=device)
        self.mass = torch.zeros(self.num_experts, dtype=sum_dtype(device), device=device)
        self.gate_mass = torch.zeros(self.num_experts, dtype=sum_dtype(device), device=device)
        self.changed = torch.zeros((), dtype=torch.int64, device=device)
        self.tokens = torch.zeros((), dtype=torch.int64, device=device)

    def move(self, device: torch.device) -> None:
        """Go to the device that the router computes on."""
        if self.counts.device != device:
            for name in ("counts", "changed", "tokens"):
                setattr(self, name, getattr(self, name).to(device))
            for name in ("mass", "gate_mass"):
                setattr(self, name, getattr(self, name).to(device, sum_dtype(device)))


class Watch:
    """Is this forward counted, in detail, and which of its tokens are real.

    It opens before the forward of the decoder and closes after it. The backward pass, where checkpointing
    recomputes layers, lies outside, so a recomputed layer is never counted.
    """

    def __init__(self) -> None:
        self.counting = False
        self.detailed = False
        self.token_mask: Tensor | None = None

    def open(self, decoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the decoder's forward; one that is recomputed within a backward pass is not counted."""
        # The last is the only sign of a running backward pass, which -1 says there is none: the public flag,
        # `is_grad_enabled`, is on while reentrant checkpointing recomputes. Asked in training alone: a served model is
        # captured as one graph, into which it cannot go.
        self.counting = decoder.training and torch.is_grad_enabled() and torch._C._current_graph_task_id() == -1
        self.token_mask = token_mask(decoder, args, kwargs) if self.counting else None

    def close(self) -> None:
        """After it, also after a failed one."""
        self.counting = False
        self.token_mask = None

    def mask_on(self, device: torch.device) -> Tensor | None:
        """The token mask where a layer computes: layers may be spread over devices, and each moves it on."""
        if self.token_mask is not None and self.token_mask.device != device:
            self.token_mask = self.token_mask.to(device)
        return self.token_mask


def token_mask(decoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The attention mask of a forward as one flag per token, `(B * S,)`; None where every token is real.

    Raises `RoutingError` on a mask from which padding cannot be read.
    """
    arguments = inspect.signature(decoder.forward).bind_partial(*args, **kwargs).arguments
    arguments = {**arguments.get("kwargs", {}), **arguments}
    mask = _of_every_token(arguments.get("attention_mask"))
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.dim() != 2:
        shape = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise RoutingError(
            f"usage is counted on tokens whose attention_mask (batch, sequence) is not 0; got a mask of {shape}. "
            "Pass a 2-D mask, or position_ids without a mask for packed sequences."
        )
    inputs = arguments.get("input_ids")
    inputs = arguments["inputs_embeds"] if inputs is None else inputs
    return mask[:, -inputs.shape[1] :].reshape(-1)


def _of_every_token(mask: Any) -> Any:
    """The mask of a forward; of masks that were made already, one per type of layer, the diagonal.

    A model around the decoder may make them (Gemma 4 does, for images). Every real token attends to itself, and no
    token attends to padding, in the mask of a layer that sees all tokens before.
    """
    if not isinstance(mask, dict) or "full_attention" not in mask:
        return mask
    made = mask["full_attention"]
    if not isinstance(made, Tensor) or made.dim() != 4:
        return made
    queries, keys = made.shape[-2:]
    diagonal = made[:, 0].diagonal(keys - queries, dim1=-2, dim2=-1)
    return diagonal if made.dtype == torch.bool else diagonal == 0  # a mask of floats is added to the scores


def count_choice(
    router: Any,
    watch: Watch,
    logits: Float[Tensor, "T C"],
    weights: Float[Tensor, "T S"],
    indices: Int[Tensor, "T S"],
    correction: Float[Tensor, " E"] | None,
) -> None:
    """Add one forward's choice to the router's counter."""
    device = indices.device
    counter, mask, policy = router.counter, watch.mask_on(device), router.policy
    counter.move(device)
    counter.counts = counter.counts + count_usage(indices, router.num_experts, mask)
    if policy is not None and policy.usage == "mass":
        weighed = logits + router.selection_bias if policy.bias_in_weights else logits
        counter.mass = counter.mass + mass_usage(weighed, mask, router.scoring, sum_dtype(device))
    if watch.detailed:
        real = torch.ones(len(indices), dtype=torch.bool, device=device) if mask is None else mask != 0
        gate = torch.zeros(router.num_experts, dtype=sum_dtype(device), device=device)
        gate.index_add_(0, indices.reshape(-1), weights.to(gate.dtype).where(real[:, None], 0.0).reshape(-1))
        counter.gate_mass = counter.gate_mass + gate
        counter.tokens = counter.tokens + real.sum()
        if policy is not None:
            differs = _differs_without_bias(router, policy, logits, indices, correction)
            counter.changed = counter.changed + (differs & real).sum()


def _differs_without_bias(
    router: Any, policy: RoutingConfig, logits: Tensor, indices: Tensor, correction: Tensor | None
) -> Tensor:
    """On which tokens `(T,)` the experts would be others if the bias were zero."""
    unbiased = choose_experts(
        logits,
        torch.zeros_like(router.selection_bias),
        router.condenser_ids,
        top_k=router.experts_per_token,
        scoring=router.scoring,
        config=policy,
        correction=correction,
    )
    return (indices.sort(dim=-1).values != unbiased.sort(dim=-1).values).any(dim=-1)
