"""What of which family is written as GGUF exactly: the second table of docs/serving.md."""

from expert_condenser.export.exportability import of_layout
from expert_condenser.export.gguf_layouts import LAYOUTS
from expert_condenser.functional.routing import RoutingConfig
from expert_condenser.moe.layers import moe_layers
from expert_condenser.testing import tiny_model

_SPACES = ("logit", "score")


def gguf_table() -> str:
    """A line for each family that is written, as Markdown: the architecture, and what is exact in which space."""
    lines = [
        f"| `{family}` | `{layout.architecture}` | " + " | ".join(_outcome(family, space) for space in _SPACES) + " |"
        for family, layout in LAYOUTS.items()
    ]
    head = ["| family | written as | `bias_space: logit` | `bias_space: score` |", "|---|---|---|---|"]
    return "\n".join([*head, *lines])


def _outcome(family: str, space: str) -> str:
    policy = RoutingConfig(bias_space=space)  # type: ignore[arg-type]
    reasons: dict[bool, str | None] = {}
    for divided in (True, False):
        scoring = moe_layers(tiny_model(family, norm_topk_prob=divided))[0].scoring
        reasons[divided] = next((found.reason for found in of_layout(family, policy, scoring)), None)
    if reasons[True] == reasons[False]:
        return reasons[True] or "exact"
    return f"exact with `norm_topk_prob`; without: {reasons[False]}"
