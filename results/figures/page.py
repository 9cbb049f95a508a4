"""`results/figures/README.md`: a line per figure, with every number read from the JSON files beside it."""

from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

from expert_condenser.files import read_json, write_text

_HEAD = """# What experts do: every figure, from the embedded base

    make figures USAGE=a/folder/of/usage/records

draws them again and writes this page ([make.py](make.py), [page.py](page.py)); each JSON has the command that wrote it,
and its numbers. Definitions are in [docs/analysis.md](../../docs/analysis.md). The base (`testbed`: 5 layers of 48
experts, top 6) was tuned on `testbed:fact_mixture:9000` by the three methods of `condenser demo` as
[recipe.yaml](recipe.yaml) says, one seed each; models are looked at on {rows} held-out items of its three tasks in
turns, pruned ones on {half}. One seed: what differs by a little is not known to differ. Numbers are means over layers
where nothing else is said.

| figure | what it shows here |
|---|---|
"""


def write_page(folder: Path) -> None:
    """Write the page of what is there."""
    read = {str(path.relative_to(folder).with_suffix("")): read_json(path) for path in folder.glob("*/*.json")}
    first = read["testbed/usage"]
    rows = int(first["options"]["limit"])
    head = _HEAD.format(rows=rows, half=rows // 2)
    lines = [_line(name, title, sentence(read[name])) for name, (title, sentence) in FIGURES.items() if name in read]
    write_text(folder / "README.md", head + "".join(lines))


def _line(name: str, title: str, text: str) -> str:
    return f"| [{title}]({name}.svg) | {text} |\n"


def _usage(found: dict[str, Any]) -> str:
    return "; ".join(
        f"{m['name']}: Gini index {mean(m['gini']):.2f}, unused experts {mean(m['dead_share']):.0%}"
        for m in found["models"]
    )


def _records(found: dict[str, Any]) -> str:
    return "on its published records, " + "; ".join(
        f"{m['task']}: Gini index {mean(m['gini']):.2f}, unused {mean(m['dead_share']):.0%}" for m in found["models"]
    )


def _overlap(found: dict[str, Any]) -> str:
    common = [mean(pair["common"]) for pair in found["pairs"]]
    if len(common) == 1:
        pair = found["pairs"][0]
        return f"{common[0]:.0%} of the usage is common to {pair['first']} and {pair['second']}"
    return f"two tasks have {min(common):.0%} to {max(common):.0%} of their usage in common"


def _divergence(found: dict[str, Any]) -> str:
    return "; ".join(
        f"{m['name']}: {m['relative'][0]:.2f} in the first layer, {m['relative'][-1]:.2f} in the last; "
        f"{mean(m['changed_choice']):.0%} of the tokens get other experts on the same inputs"
        for m in found["models"]
    )


def _correlation(found: dict[str, Any]) -> str:
    return "; ".join(
        f"{m['name']}: {mean(m['mean']):.3f} over all pairs, {mean(m['condensers']):.3f} of the condensers with others"
        for m in found["models"]
    )


def _ablation(found: dict[str, Any]) -> str:
    parts = []
    for name, variants in found["models"].items():
        for variant, q in variants.items():
            low, high = q["nll_rise_interval"]
            rise = "" if variant == "on" else f" ({q['nll_rise']:+.3f}, 95 % {low:+.3f} to {high:+.3f})"
            parts.append(f"{variant} {q['nll']:.3f}{rise}")
        parts[-len(variants)] = f"{name}, nll with condensers " + parts[-len(variants)]
    return ", ".join(parts)


def _gradients(found: dict[str, Any]) -> str:
    slopes, first, last = found["slopes"], found["deciles"][0], found["deciles"][-1]
    return (
        f"over {found['steps']} steps, the slope of log ‖ΔW‖ on log usage is {slopes['sgd']:.2f} under SGD and "
        f"{slopes['adamw']:.2f} under AdamW; the least used tenth has a gradient in {first['frequency']:.0%} of the "
        f"steps, of {first['gradient'] / last['gradient']:.1%} of the busiest tenth's norm"
    )


def _dynamics(found: dict[str, Any]) -> str:
    def nll(run: dict[str, Any]) -> float:
        return mean(value for value in run["curves"]["nll"][-9:] if value is not None)

    runs = "; ".join(
        f"{run['name']}: over the last nine entries nll {nll(run):.3f}, "
        f"Gini index {mean(run['gini'][-9:]):.2f} ({run['gini'][0]:.2f} in the first)"
        for run in found["runs"]
    )
    return f"by step, both phases in a row; {runs}"


def _super(found: dict[str, Any]) -> str:
    def places(model: dict[str, Any]) -> str:
        experts = [f"{model['layers'][layer]}:{expert}" for layer, expert in model["super_experts"]]
        return f"{model['name']}: {', '.join(experts) or 'none'}"

    return "super experts (layer:expert), " + "; ".join(map(places, found["models"]))


def _prune(found: dict[str, Any]) -> str:
    rows = [r for r in found["against_control"] if (r["scope"], r["weights"]) == ("layer", "rescaled")]
    least = min(row["kept"] for row in rows)
    own = [row for row in rows if row["kept"] == least]
    listed = ", ".join(f"{row['criterion'].replace('_', ' ')} {row['nll']:.3f}" for row in own)
    random = f"random {own[0]['control']:.3f} ({own[0]['lowest draw']:.3f} to {own[0]['highest']:.3f})"
    return (
        f"{found['model']} on {found['options']['data']} (nll {found['whole']['nll']:.3f}), with {least} of 48 experts "
        f"per layer kept and the weights of a cut model: {listed}; {random}"
    )


FIGURES: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "testbed/usage": ("usage", _usage),
    "deepseek_v2_lite/usage": ("usage of DeepSeek-V2-Lite", _records),
    "testbed/overlap": ("overlap", _overlap),
    "deepseek_v2_lite/overlap": ("overlap in DeepSeek-V2-Lite", _overlap),
    "testbed/divergence": ("divergence", _divergence),
    "testbed/correlation": ("correlation", _correlation),
    "testbed/ablation": ("ablation", _ablation),
    "testbed/gradients": ("gradients", _gradients),
    "testbed/dynamics": ("dynamics", _dynamics),
    "testbed/super": ("super", _super),
    "prune_base/prune": ("prune the base", _prune),
    "prune_tuned/prune": ("prune a tuned model", _prune),
    "prune_tuned_by_base/prune": ("the same, by the list of the base on its old task", _prune),
}
"""File -> what the page calls it, and its sentence."""
