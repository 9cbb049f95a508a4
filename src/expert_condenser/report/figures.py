"""A picture of expert usage: one panel per model, one row per layer, experts sorted by the first model's usage."""

from collections.abc import Mapping
from pathlib import Path

from jaxtyping import Num
from matplotlib.figure import Figure
from torch import Tensor

from expert_condenser.functional.concentration import diversity


def plot_usage(
    usage: Mapping[str, Num[Tensor, "L E"]], condensers: Mapping[str, Mapping[int, list[int]]], path: Path
) -> None:
    """Write a PNG. Brightness is a layer's share of selections; circles mark the condensers of a model."""
    names = list(usage)
    order = usage[names[0]].argsort(dim=-1, descending=True)
    height = 0.32 * order.shape[0] + 0.75
    figure = Figure(figsize=(9, height * len(names) + 0.7))  # no pyplot: that would choose a backend for the process
    axes = figure.subplots(len(names), 1, squeeze=False, sharex=True)
    shares = {name: (table / table.sum(-1, keepdim=True)).gather(-1, order) for name, table in usage.items()}
    top = max(share.max().item() for share in shares.values())
    for axis, name in zip(axes[:, 0], names, strict=True):
        image = axis.imshow(shares[name], aspect="auto", cmap="viridis", vmin=0, vmax=top)
        for layer, experts in condensers.get(name, {}).items():
            places = [(order[layer] == expert).nonzero().item() for expert in experts]
            axis.plot(places, [layer] * len(places), "o", markersize=9, fillstyle="none", color="white")
        axis.set_title(
            f"{name}: diversity exp(H)/E = {diversity(usage[name]).mean().item():.2f}", loc="left", fontsize=10
        )
        axis.set_yticks(range(order.shape[0]), [str(index) for index in range(order.shape[0])])
        axis.set_ylabel("MoE layer")
    axes[-1, 0].set_xlabel(f"experts, in the order of their usage by {names[0]!r}")
    figure.colorbar(image, ax=axes[:, 0].tolist(), label="share of selections", fraction=0.03)
    figure.savefig(path, dpi=110, bbox_inches="tight")
