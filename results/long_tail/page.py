"""`results/long-tail.md`, from the files that make.py left: every sentence with a number in it is computed here."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from expert_condenser.files import read_json, write_text

GROUPS = {
    "the mixture": ("fact_pairs", "worked_pairs", "short_spelling"),
    "facts": ("facts", "unseen_fact_pairs"),
    "old families": ("word_problems", "chain_sum", "letter_counting"),
}
MODELS = {"base": ("base",), "sft": ("sft", "sft_seed2"), "condenser": ("condenser", "condenser_seed2")}
RESAMPLES, LEVEL = 2000, 0.95
WAYS = {"as_is": "as they were", "rescaled": "renormalised"}


class Contrast(NamedTuple):
    """One way to prune the tail of one kind of model, on one group of tasks."""

    group: str
    model: str
    by: str
    kept: int
    way: str
    whole: float
    rise: tuple[float, float, float]
    """Of the nll per token over the whole model's: mean, and the ends of its interval."""
    random: float
    difference: tuple[float, float, float]
    """Rise without the tail minus rise without random experts."""
    accuracy: tuple[float, float]
    """Exact match of the whole model and without the tail."""
    random_accuracy: float


def contrasts(folder: Path) -> list[Contrast]:
    """All of them; intervals are percentiles of a bootstrap over items and, for the difference, over draws too."""
    files = {name: read_json(folder / f"{name}.json") for names in MODELS.values() for name in names}
    cuts = [(row["kept"], row["way"]) for row in files["base"]["tasks"]["facts"]["pruned"] if row["by"] == "own"]
    return [  # the base answers nothing of the mixture, with or without a tail
        _contrast(group, model, [files[name] for name in names], by, kept, way)
        for group in GROUPS
        for model, names in MODELS.items()
        for by in (("own",) if model == "base" else ("own", "base"))
        for kept, way in cuts
        if (model, group) != ("base", "the mixture")
    ]


def _contrast(group: str, model: str, files: list[dict[str, Any]], by: str, kept: int, way: str) -> Contrast:
    parts = [_of_task(file["tasks"][task], by, kept, way) for file in files for task in GROUPS[group]]
    rng = np.random.default_rng(0)
    drawn = [_resampled(rng, part) for part in parts]
    rises, differences = np.mean([d[0] for d in drawn], axis=0), np.mean([d[1] for d in drawn], axis=0)
    mean = {name: float(np.mean([part[name] for part in parts])) for name in _MEANS}
    return Contrast(
        group,
        model,
        by,
        kept,
        way,
        mean["whole"],
        (mean["rise"], *_ends(rises)),
        mean["random"],
        (mean["rise"] - mean["random"], *_ends(differences)),
        (mean["exact"], mean["exact_tail"]),
        mean["exact_random"],
    )


_MEANS = ("whole", "rise", "random", "exact", "exact_tail", "exact_random")


def _of_task(found: dict[str, Any], by: str, kept: int, way: str) -> dict[str, Any]:
    """What one model does on one task: nats of every item, tokens, and the means per token."""
    own = [row for row in found["pruned"] if (row["kept"], row["way"]) == (kept, way)]
    tail = next(row for row in own if row["by"] == by)
    draws = [row for row in own if row["by"].startswith("random")]
    tokens, whole = np.array(found["tokens"], float), np.array(found["whole"]["nll"])
    lost = np.array(tail["nll"]) - whole
    beside = np.array([row["nll"] for row in draws]) - whole
    return {
        "tokens": tokens,
        "lost": lost,
        "beside": beside,
        "whole": whole.sum() / tokens.sum(),
        "rise": lost.sum() / tokens.sum(),
        "random": beside.sum(1).mean() / tokens.sum(),
        "exact": _share(found["whole"]["exact"]),
        "exact_tail": _share(tail["exact"]),
        "exact_random": float(np.mean([_share(row["exact"]) for row in draws])),
    }


def _share(bits: str) -> float:
    return bits.count("1") / len(bits)


def _resampled(rng: Any, part: dict[str, Any]) -> tuple[Any, Any]:
    """The rise, and its difference from the control, for other items and other draws."""
    items, draws = len(part["tokens"]), len(part["beside"])
    counts = rng.multinomial(items, np.full(items, 1 / items), size=RESAMPLES).astype(float)
    weights = rng.multinomial(draws, np.full(draws, 1 / draws), size=RESAMPLES) / draws
    tokens = counts @ part["tokens"]
    rise = counts @ part["lost"] / tokens
    random = ((weights @ part["beside"]) * counts).sum(1) / tokens
    return rise, rise - random


def _ends(values: Any) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


_HEAD = """# Does pruning the long tail hurt more than pruning at random?

    make long-tail

writes this page and the JSON files in [long_tail/](long_tail) ([make.py](long_tail/make.py),
[page.py](long_tail/page.py)). The models are the base and what `sft` and `condenser` make of it (two seeds each,
[recipe.yaml](figures/recipe.yaml)). The long tail of a model is its least chosen experts on the rows that the runs
learn. With {kept} of 48 experts per layer left, a model is asked {items} held-out items of every task. The control is
{draws} random sets of as many experts, so of as many parameters; the same sets for all models. Weights are renormalised
over the experts that are left, as in a model from which the others are cut, or as they were. Intervals are 95 %
percentiles of a bootstrap over items, and of the difference over draws too; runs and tasks are taken as they are. The
tail is that of the model itself (*own*), or of the base.

Tasks: {tasks}. The base does not know the mixture's, so it is not asked them.

## The answer

{answer}

"""
_COLUMNS = (
    "| model | tail of | kept | weights | nll | rise without the tail | at random | difference |"
    " exact match, %: whole, without the tail, at random |"
)


def write_page(folder: Path, page: Path) -> None:
    """Write the page from the files in a folder."""
    found, base = contrasts(folder), read_json(folder / "base.json")
    kept = sorted({c.kept for c in found}, reverse=True)
    draws = {row["by"] for row in base["tasks"]["facts"]["pruned"] if row["by"].startswith("random")}
    tasks = "; ".join(f"{group}: {', '.join(f'`{name}`' for name in names)}" for group, names in GROUPS.items())
    head = _HEAD.format(
        kept=" or ".join(map(str, kept)), items=base["items"], draws=len(draws), tasks=tasks, answer=answer(found)
    )
    write_text(page, head + "\n".join(_table(group, [c for c in found if c.group == group]) for group in GROUPS))


def answer(found: list[Contrast]) -> str:
    """The sentences, whichever way it falls."""
    before = [c for c in found if c.model == "base"]
    own = [c for c in found if c.model != "base" and c.by == "own"]
    by_base = [c for c in found if c.by == "base"]
    learnt = [c for c in own if c.group == "the mixture"]
    rest = [c for c in own if c.group != "the mixture"]
    return "\n".join(
        [
            f"- **Before tuning**: {_against(before)}",
            f"- **After tuning, the base's tail**: {_against(by_base)}",
            f"- **After tuning, its own tail**: {_against(own)}",
            f"- **Is anything lost without the tuned model's own tail?** On what it learnt, {_lost(learnt)} On what it "
            f"knew before, {_lost(rest)}",
        ]
    )


def _against(found: list[Contrast]) -> str:
    more = [c for c in found if c.difference[1] > 0]
    less = [c for c in found if c.difference[2] < 0]
    where = f" ({_names(more)})" if more else ""
    mean, open_ = np.mean([c.difference[0] for c in found]), len(found) - len(more) - len(less)
    return (
        f"of {len(found)} contrasts, the tail costs more than random experts in {len(more)}{where}, less in "
        f"{len(less)}, and {open_} are undecided; mean difference {mean:+.3f} nats per token."
    )


def _names(found: list[Contrast]) -> str:
    return ", ".join(f"{c.model} on {c.group}, {c.kept} kept, weights {WAYS[c.way]}" for c in found[:4]) + (
        ", ..." if len(found) > 4 else ""
    )


def _lost(found: list[Contrast]) -> str:
    """How many rises are above zero, and how far exact match falls."""
    lost = [c for c in found if c.rise[1] > 0]
    fall = [100 * (c.accuracy[0] - c.accuracy[1]) for c in found]
    return (
        f"nll rises in {len(lost)} of {len(found)} cases, by {min(c.rise[0] for c in found):+.3f} to "
        f"{max(c.rise[0] for c in found):+.3f}; exact match falls by {min(fall):.1f} to {max(fall):.1f} points."
    )


def _table(group: str, found: list[Contrast]) -> str:
    rows = [_COLUMNS, "|---|---|---|---|---|---|---|---|---|", *map(_row, found)]
    return f"## On {group}\n\n" + "\n".join(rows) + "\n"


def _row(c: Contrast) -> str:
    percent = ", ".join(f"{100 * x:.0f}" for x in (*c.accuracy, c.random_accuracy))
    cells = [c.model, c.by, str(c.kept), WAYS[c.way], f"{c.whole:.3f}", _interval(c.rise)]
    return "| " + " | ".join([*cells, f"{c.random:+.3f}", _interval(c.difference), percent]) + " |"


def _interval(value: tuple[float, float, float]) -> str:
    return f"{value[0]:+.3f} ({value[1]:+.3f} to {value[2]:+.3f})"
