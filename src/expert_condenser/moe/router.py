"""The router seam: a routing policy on a transformers router.

A router gets a dynamic subclass of its own class, so hooks, `isinstance` checks, parameter names and
everything around the router stay as they are; only its forward changes: logits, choose, watch, gradient. The bias and
the condensers are registered tensors of the router; what is of the model as a whole is in its `Attachment`.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from expert_condenser.functional.routing import RoutingConfig, route
from expert_condenser.functional.scoring import Scoring, multiply_gain, routed_logits
from expert_condenser.moe.attachment import Attachment
from expert_condenser.moe.counting import Counter, count_choice
from expert_condenser.moe.dense_mixture import mix, remove_mixture
from expert_condenser.moe.handover import Choice
from expert_condenser.moe.hooked import computes_on, swap_class
from expert_condenser.moe.recycled import remove_recycling
from expert_condenser.moe.rule import Rule
from expert_condenser.moe.state import STATE, check_router_state


class PolicyRouter(nn.Module):
    """Mixed into a family's router class by `set_policy`: the forward and the float32 bias."""

    attachment: Attachment
    rule: Rule
    scoring: Scoring
    counter: Counter
    mixer: str | None = None
    """DenseMixer's implementation, see `expert_condenser.moe.dense_mixture`."""
    listeners: tuple[Callable[[Choice], None], ...] = ()
    """Who else gets every choice; see `expert_condenser.moe.choices`."""
    selection_bias: Float[Tensor, " E"]
    condenser_ids: Int[Tensor, " R"]

    @property
    def policy(self) -> RoutingConfig | None:
        """The model's routing policy; None: the family's own routing, only counted."""
        return self.attachment.policy

    @property
    def num_experts(self) -> int:
        """E; a family may name it otherwise."""
        return self.rule.sizes(self)[0]

    @property
    def experts_per_token(self) -> int:
        """K, of which a family may keep no attribute of its own."""
        return self.rule.sizes(self)[1]

    @property
    def gain(self) -> Tensor | None:
        """The family's own learnt factor on the weights."""
        return None if self.rule.gain is None else self.rule.gain(self)

    def forward(self, hidden_states: Tensor, *extra: Any) -> Any:
        """What the family's own router returns: nearly always `(logits (T, E), weights (T, S), indices (T, S))`.

        Where the family weighs shared experts too, their weights `(T, N)` follow.
        """
        return self._route(super().forward, hidden_states, *extra)

    def _route(self, own: Callable[..., Any], hidden_states: Tensor, *extra: Any) -> Any:
        """Logits, choose, watch, gradient; without a policy the family's `own` routing, watched."""
        correction = None if self.rule.correction is None else self.rule.correction(self, *extra)
        output = None
        if self.policy is None:
            output = own(hidden_states, *extra)
            choice = self.rule.handover.read(self, output, hidden_states)
            # Where a family returns something else, the logits are made once more, for DenseMixer's gradient alone.
            others = self.rule.returned is not None or choice.shared
            logits = self.rule.logits(self, hidden_states) if others and self._mixes() else choice.returned
        else:
            logits = self.rule.logits(self, hidden_states)
            weights, indices = self._choose(logits, self.policy, correction)
            weights = weights.to(hidden_states.dtype) if self.rule.weights_like_hidden else weights
            weights, *shared = self._apart(weights, indices)
            returned = routed_logits(logits, self.scoring)
            returned = returned if self.rule.returned is None else self.rule.returned(returned)
            choice = Choice(returned, weights, indices, tuple(shared))
        self._watch(logits, choice, correction)
        if self._mixes():
            weights, indices = mix(self, logits, choice.weights, choice.indices)
            choice = choice._replace(weights=weights, indices=indices)
        elif output is not None:
            return output
        return self.rule.handover.give(choice)

    def _apart(self, weights: Tensor, indices: Tensor) -> tuple[Tensor, ...]:
        """The weights of the chosen experts, then those of shared experts where the family weighs them too."""
        if not self.scoring.num_shared:
            return (weights,)
        slots = indices.shape[-1]
        return weights[..., :slots].contiguous(), weights[..., slots:].contiguous()

    def _choose(self, logits: Tensor, policy: RoutingConfig, correction: Tensor | None) -> tuple[Tensor, Tensor]:
        """The experts of every token and their weights; when a layer is recomputed, the experts of the first pass."""
        replay = self.attachment.replay
        weights, indices = route(
            logits,
            self.selection_bias,
            self.condenser_ids,
            top_k=self.experts_per_token,
            scoring=self.scoring,
            config=policy,
            correction=correction,
            indices=replay.recall(self),
        )
        replay.remember(self, indices)
        return weights if self.gain is None else multiply_gain(weights, indices, self.gain), indices

    def _watch(self, logits: Tensor, choice: Choice, correction: Tensor | None) -> None:
        """Count the choice, in a forward that is counted, and tell the listeners."""
        watch = self.attachment.watch
        if watch.counting:
            with torch.no_grad():
                count_choice(self, watch, logits, choice.weights, choice.indices, correction)
        for listener in self.listeners:
            listener(choice)

    def _mixes(self) -> bool:
        return self.mixer is not None and self.training and torch.is_grad_enabled()

    def check_state(self, name: str, bias: Tensor | None = None, condensers: Tensor | None = None) -> None:
        """Raise `CheckpointError` where a bias or condensers, by default the router's own, are none; see `state`."""
        if self.policy is not None:
            check_router_state(
                name,
                self.selection_bias if bias is None else bias,
                self.condenser_ids if condensers is None else condensers,
                num_experts=self.num_experts,
                top_k=self.experts_per_token,
                policy=self.policy,
                scoring=self.scoring,
                num_identity=self.rule.num_identity(self),
            )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """As in torch, for state that is checked first: nothing of a faulty one is taken.

        torch has hooks for it, and a copy of a module shares them with the original.
        """
        loaded = (state_dict.get(f"{prefix}{name}") for name in STATE)
        if any(f"{prefix}{name}" in state_dict for name in STATE):
            self.check_state(prefix.removesuffix("."), *loaded)
        super()._load_from_state_dict(state_dict, prefix, *args)
        if self.policy is not None:  # with assign=True the tensors are the file's, in its dtypes
            self.selection_bias = self.selection_bias.float()
            self.condenser_ids = self.condenser_ids.long()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Move the bias with the module, but never cast it: half precision loses its steps.

        Every cast and move of torch (`to`, `half`, `cuda`) goes through this method; there is no public one.
        """
        bias = getattr(self, "selection_bias", None)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if bias is not None and self.selection_bias.dtype != torch.float32:
            self.selection_bias = bias.to(self.selection_bias.device)
        return self


class PolicyBlock(PolicyRouter):
    """The same for a family whose block chooses (DBRX): its forward is its own, and asks us instead of itself."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As in the family."""
        return super(PolicyRouter, self).forward(*args, **kwargs)

    def route_tokens_to_experts(self, router_logits: Tensor) -> Any:
        """`(weights (T, S), indices (T, S))`, by the logits `(T, E)` of the block's router."""
        return self._route(super().route_tokens_to_experts, router_logits)  # type: ignore[misc]


@cache
def policy_class(router_class: Any, in_block: bool = False) -> Any:
    """`OlmoeTopKRouter` -> `CondenserOlmoeTopKRouter`, made once per class."""
    mixed_in = PolicyBlock if in_block else PolicyRouter
    return type(f"Condenser{router_class.__name__}", (mixed_in, router_class), {"base_class": router_class})


def set_policy(router: Any, rule: Rule, attachment: Attachment) -> None:
    """Turn a plain router into a `PolicyRouter`, in place; with a policy it also gets a zero bias and no condensers."""
    swap_class(router, policy_class(router.__class__, rule.handover.in_block))
    router.rule, router.scoring, router.attachment = rule, rule.scoring(router), attachment
    router.counter = Counter(router.num_experts)
    if attachment.policy is None:
        return
    bias, condensers = torch.zeros(router.num_experts, dtype=torch.float32), torch.zeros(0, dtype=torch.int64)
    device = computes_on(router)
    if device.type != "meta":  # from there nothing can be moved: a loader fills what it made itself
        bias, condensers = bias.to(device), condensers.to(device)
    router.register_buffer("selection_bias", bias)
    router.register_buffer("condenser_ids", condensers)


def clear_policy(router: Any) -> None:
    """Turn a `PolicyRouter` back into the plain router that it was."""
    remove_mixture(router)
    if router.policy is not None:
        if router.policy.budget == "recycle":
            remove_recycling(router)
        del router.selection_bias, router.condenser_ids
    for name in ("rule", "scoring", "attachment", "counter"):
        delattr(router, name)
    vars(router).pop("listeners", None)
    swap_class(router, type(router).base_class)
