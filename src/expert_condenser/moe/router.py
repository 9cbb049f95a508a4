"""The router seam: a routing policy on a transformers router, and exact counts of what it chose.

A router gets a dynamic subclass of its own class, so hooks, `isinstance` checks, parameter names and
everything around the router stay as they are; only its forward changes. The bias and the condensers
are registered tensors of the router. What was chosen is counted once per token: in training forwards,
on real tokens, and not again when gradient checkpointing recomputes a layer.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from expert_condenser.errors import RoutingError
from expert_condenser.functional.routing import RoutingConfig, choose_experts, count_usage, mass_usage, route
from expert_condenser.functional.scoring import Scoring
from expert_condenser.moe.dense_mixture import mix, remove_mixture
from expert_condenser.moe.rules import Rule


class Counter:
    """Running sums of one layer since the last `reset`, over the real tokens of training forwards.

    `usage` (E,): int64 counts, or float64 probability mass. While `detailed`, also `gate_mass` (E,), the
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
        self.mass = torch.zeros(self.num_experts, dtype=torch.float64, device=device)
        self.gate_mass = torch.zeros(self.num_experts, dtype=torch.float64, device=device)
        self.changed = torch.zeros((), dtype=torch.int64, device=device)
        self.tokens = torch.zeros((), dtype=torch.int64, device=device)

    def move(self, device: torch.device) -> None:
        """Go to the device that the router computes on."""
        if self.counts.device != device:
            for name in ("counts", "mass", "gate_mass", "changed", "tokens"):
                setattr(self, name, getattr(self, name).to(device))


class ModelState:
    """What the routers of one model share during a forward: is it counted, and which tokens are real.

    It is set before the forward of the decoder and cleared after it. The backward pass, where
    checkpointing recomputes layers, lies outside, so a recomputed layer is never counted.
    """

    def __init__(self, decoder: Any) -> None:
        self.counting = False
        self.detailed = False
        self.token_mask: Tensor | None = None
        self.replay: dict[int, Tensor] | None = None
        self._layers = [module for module in decoder.modules() if hasattr(module, "gradient_checkpointing")]
        self._handles = [
            decoder.register_forward_pre_hook(self.enter, with_kwargs=True),
            decoder.register_forward_hook(self.leave, always_call=True),
        ]

    def enter(self, decoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the decoder's forward."""
        self.counting = decoder.training and torch.is_grad_enabled() and torch._C._current_graph_task_id() == -1
        self.token_mask = token_mask(decoder, args, kwargs) if self.counting else None
        for layer in self._layers:
            function = getattr(layer, "_gradient_checkpointing_func", None)
            if function is not None and not isinstance(function, ReplayingCheckpoint):
                layer._gradient_checkpointing_func = ReplayingCheckpoint(function, self)

    def leave(self, decoder: Any, args: tuple[Any, ...], output: Any) -> None:
        """After the decoder's forward, also after a failed one."""
        self.counting = False
        self.token_mask = None

    def remove(self) -> None:
        """Take the hooks away and put the checkpointing functions back."""
        for handle in self._handles:
            handle.remove()
        for layer in self._layers:
            if isinstance(function := getattr(layer, "_gradient_checkpointing_func", None), ReplayingCheckpoint):
                layer._gradient_checkpointing_func = function.checkpoint

    @contextmanager
    def replaying(self, choices: dict[int, Tensor]) -> Iterator[None]:
        """Let the routers read their choices from `choices`, and write there what is missing."""
        outer, self.replay = self.replay, choices
        try:
            yield
        finally:
            self.replay = outer


class ReplayingCheckpoint:
    """A layer's checkpointing function, with one memory per call: the recomputation gets the first pass's experts.

    Without it, rounding that differs between the two passes, or a bias changed between them, would make
    the backward pass that of another function.
    """

    def __init__(self, checkpoint: Callable[..., Any], state: ModelState) -> None:
        self.checkpoint = checkpoint
        self.state = state

    def __call__(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run `function` under the wrapped checkpointing function."""
        choices: dict[int, Tensor] = {}

        def run(*inner: Any) -> Any:
            with self.state.replaying(choices):
                return function(*inner)

        return self.checkpoint(run, *args)


def token_mask(decoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The attention mask of a forward as one flag per token, `(B * S,)`; None where every token is real.

    Raises `RoutingError` on a mask from which padding cannot be read.
    """
    arguments = inspect.signature(decoder.forward).bind_partial(*args, **kwargs).arguments
    arguments = {**arguments.get("kwargs", {}), **arguments}
    mask = arguments.get("attention_mask")
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


class PolicyRouter(nn.Module):
    """Mixed into a family's router class by `set_policy`: the forward and the float32 bias."""

    rule: Rule
    scoring: Scoring
    policy: RoutingConfig | None
    """None: the family's own routing, only counted."""
    counter: Counter
    state: ModelState
    mixer: str | None = None
    """DenseMixer's implementation, see `expert_condenser.moe.dense_mixture`."""
    num_experts: int
    top_k: int
    selection_bias: Float[Tensor, " E"]
    condenser_ids: Int[Tensor, " R"]

    def forward(self, hidden_states: Tensor, *extra: Any) -> tuple[Tensor, Tensor, Tensor]:
        """`(logits (T, E), weights (T, S), indices (T, S))`, as the family's own router returns them."""
        if self.policy is None:
            logits, weights, indices = super().forward(hidden_states, *extra)
        else:
            logits = self.rule.logits(self, hidden_states)
            weights, indices = self._route(logits, self.policy, self._correction(*extra))
            weights = weights.to(hidden_states.dtype) if self.rule.weights_like_hidden else weights
        if self.state.counting:
            with torch.no_grad():
                self._count(logits, weights, indices, self._correction(*extra))
        if self.mixer is not None and self.training and torch.is_grad_enabled():
            weights, indices = mix(self, logits, weights, indices)
        return logits, weights, indices

    def _correction(self, *extra: Any) -> Tensor | None:
        return None if self.rule.correction is None else self.rule.correction(self, *extra)

    def _route(self, logits: Tensor, policy: RoutingConfig, correction: Tensor | None) -> tuple[Tensor, Tensor]:
        replay = self.state.replay
        weights, indices = route(
            logits,
            self.selection_bias,
            self.condenser_ids,
            top_k=self.top_k,
            scoring=self.scoring,
            config=policy,
            correction=correction,
            indices=None if replay is None else replay.get(id(self)),
        )
        if replay is not None:
            replay[id(self)] = indices
        return weights, indices

    def _count(self, logits: Tensor, weights: Tensor, indices: Tensor, correction: Tensor | None) -> None:
        counter, mask = self.counter, self.state.token_mask
        counter.move(indices.device)
        counter.counts = counter.counts + count_usage(indices, self.num_experts, mask)
        if self.policy is not None and self.policy.usage == "mass":
            weighed = logits + self.selection_bias if self.policy.bias_in_weights else logits
            counter.mass = counter.mass + mass_usage(weighed, mask, self.scoring)
        if self.state.detailed:
            self._count_details(logits, weights, indices, correction)

    def _count_details(self, logits: Tensor, weights: Tensor, indices: Tensor, correction: Tensor | None) -> None:
        counter, mask = self.counter, self.state.token_mask
        real = torch.ones(len(indices), dtype=torch.bool, device=indices.device) if mask is None else mask != 0
        gate = torch.zeros(self.num_experts, dtype=torch.float64, device=indices.device)
        gate.index_add_(0, indices.reshape(-1), weights.double().where(real[:, None], 0.0).reshape(-1))
        counter.gate_mass = counter.gate_mass + gate
        counter.tokens = counter.tokens + real.sum()
        if self.policy is not None:
            unbiased = choose_experts(
                logits,
                torch.zeros_like(self.selection_bias),
                self.condenser_ids,
                top_k=self.top_k,
                scoring=self.scoring,
                config=self.policy,
                correction=correction,
            )
            differs = (indices.sort(dim=-1).values != unbiased.sort(dim=-1).values).any(dim=-1)
            counter.changed = counter.changed + (differs & real).sum()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Move the bias with the module, but never cast it: half precision loses its steps."""
        bias = self._buffers.get("selection_bias")
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        moved = self._buffers.get("selection_bias")
        if bias is not None and moved is not None and moved.dtype != torch.float32:
            self._buffers["selection_bias"] = bias.to(moved.device)
        return self


@cache
def policy_class(router_class: Any) -> Any:
    """`OlmoeTopKRouter` -> `CondenserOlmoeTopKRouter`, made once per class."""
    return type(f"Condenser{router_class.__name__}", (PolicyRouter, router_class), {"base_class": router_class})


def set_policy(router: Any, rule: Rule, state: ModelState, policy: RoutingConfig | None) -> None:
    """Turn a plain router into a `PolicyRouter`, in place; with a policy it also gets a zero bias and no condensers."""
    router.__class__ = policy_class(router.__class__)
    router.rule, router.scoring, router.policy, router.state = rule, rule.scoring(router), policy, state
    router.counter = Counter(router.num_experts)
    if policy is not None:
        device = next(router.parameters()).device
        router.register_buffer("selection_bias", torch.zeros(router.num_experts, dtype=torch.float32, device=device))
        router.register_buffer("condenser_ids", torch.zeros(0, dtype=torch.int64, device=device))


def clear_policy(router: Any) -> None:
    """Turn a `PolicyRouter` back into the plain router that it was."""
    remove_mixture(router)
    if router.policy is not None:
        del router.selection_bias, router.condenser_ids
    for name in ("rule", "scoring", "policy", "state", "counter"):
        delattr(router, name)
    router.__class__ = type(router).base_class
