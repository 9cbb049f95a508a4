"""What condensers are worth: the tuned model with them on, demoted, removed, or with their mass restored.

    on         as it was tuned: always chosen                                              (paper, Fig. 7)
    demoted    ordinary routed experts, which a token chooses or not
    removed    no token can choose them
    restored   always chosen, and all weights scaled so that they sum to what the family's own choice has (*ours*)

`demoted` against `on` asks what it is worth that they are always active; `removed`, what they hold.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from expert_condenser.analysis.quality import Quality, quality_of
from expert_condenser.analysis.subjects import condensers_of
from expert_condenser.data.tokens import Tokens
from expert_condenser.errors import AnalysisError
from expert_condenser.moe.attachment import find_attachment
from expert_condenser.moe.layers import moe_layers
from expert_condenser.moe.without_experts import without_experts

VARIANTS = ("on", "demoted", "removed", "restored")


def ablate(
    name: str,
    model: Any,
    rows: Sequence[Tokens],
    *,
    batch_size: int = 64,
    advance: Callable[[int], None] = lambda variants: None,
) -> dict[str, Quality]:
    """Ask every variant the same rows; the model is left as it was.

    Raises `AnalysisError` where it has no condensers, or they are beside the chosen experts with gates of their own.
    """
    found = {}
    for variant in VARIANTS:
        with variant_of(name, model, variant):
            found[variant] = quality_of(model, rows, batch_size=batch_size)
        advance(1)
    return found


@contextmanager
def variant_of(name: str, model: Any, variant: str) -> Iterator[None]:
    """Within it the model is one of `VARIANTS`."""
    condensers, attachment = condensers_of(model), find_attachment(model)
    if attachment is None or attachment.policy is None or not condensers:
        raise AnalysisError(
            f"an ablation takes away condensers, and {name} has none; name a model tuned with `condenser`"
        )
    policy = attachment.policy
    if policy.budget == "recycle":
        raise AnalysisError(
            f"the condensers of {name} have gates of their own (budget 'recycle'); set those to 0 instead"
        )
    routers = [layer.router for layer in moe_layers(model)]
    kept = [router.condenser_ids for router in routers]
    try:
        if variant == "demoted":
            for router in routers:
                router.condenser_ids = router.condenser_ids[:0]
        if variant == "restored":
            attachment.policy = replace(
                policy, condenser_mass="keep", condenser_gate_floor=None, bias_in_weights=False, duplicates=False
            )
        if variant == "removed":
            with without_experts(model, condensers, rescale=False):
                yield
        else:
            yield
    finally:
        attachment.policy = policy
        for router, ids in zip(routers, kept, strict=True):
            router.condenser_ids = ids
