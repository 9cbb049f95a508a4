"""`results/long-tail.md`, from the files that make.py left: every sentence with a number in it is computed here."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from expert_condenser.files import read_json, write_text

GROUPS = {
    "the mixture": ("fact_pairs", "worked_pairs", "short_spelling"),
    "pairs of facts that no run is shown": ("unseen_fact_pairs",),
    "facts": ("facts",),
    "old families": ("word_problems", "chain_sum", "letter_counting"),
}
LEARNT = "the mixture"
NEW = (LEARNT, "pairs of facts that no run is shown")
"""What the base cannot answer, with or without a tail: it has never seen how these are asked."""
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
    return [
        _contrast(group, model, [files[name] for name in names], by, kept, way)
        for group in GROUPS
        for model, names in MODELS.items()
        for by in (("own",) if model == "base" else ("own", "base"))
        for kept, way in cuts
        if model != "base" or group not in NEW
    ]


def _contrast(group: str, model: str, files: list[dict[str, Any]], by: str, kept: int, way: str) -> Contrast:
    parts = [_of_task(file["tasks"][task], by, kept, way) for task in GROUPS[group] for file in files]
    rises, differences = np.mean(_resampled(parts, len(files)), axis=1)
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


def _resampled(parts: list[dict[str, Any]], seeds: int) -> Any:
    """Rises, and their differences from the control, of every part, for other items and other draws: (2, parts, B).

    The runs of a task answer the same items, and the draws are the same sets of experts everywhere: what is drawn
    again is drawn for all of them.
    """
    rng = np.random.default_rng(0)
    draws = len(parts[0]["beside"])
    weights = rng.multinomial(draws, np.full(draws, 1 / draws), size=RESAMPLES) / draws
    found = []
    for at, part in enumerate(parts):
        if at % seeds == 0:
            items = len(part["tokens"])
            counts = rng.multinomial(items, np.full(items, 1 / items), size=RESAMPLES).astype(float)
        tokens = counts @ part["tokens"]
        rise = counts @ part["lost"] / tokens
        found.append((rise, rise - ((weights @ part["beside"]) * counts).sum(1) / tokens))
    return np.swapaxes(np.array(found), 0, 1)


def _ends(values: Any) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


_HEAD = """# Does pruning the long tail hurt more than pruning at random?

    make long-tail

writes this page and the JSON files in [long_tail/](long_tail) ([make.py](long_tail/make.py),
[page.py](long_tail/page.py)). The models are the base and what `sft` and `condenser` make of it ({seeds} seeds each,
[recipe.yaml](figures/recipe.yaml)). The long tail of a model is its least chosen experts on the rows that the runs
learn. With {kept} of 48 experts per layer left, a model is asked {items} held-out items of every task. The control is
{draws} random sets of as many experts, so of as many parameters; the same sets for all models. Weights are renormalised
over the experts that are left, as in a model from which the others are cut, or as they were. Intervals are 95 %
percentiles of a bootstrap over items, and of the difference over draws too; runs and tasks are taken as they are. The
tail is that of the model itself (*own*), or of the base.

Tasks: {tasks}.

The base has never seen how the new ones are asked, so it is asked facts and old families alone. One size, one mixture,
{seeds} seeds: nothing here is known of other models.

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
        kept=" or ".join(map(str, kept)),
        items=base["items"],
        draws=len(draws),
        tasks=tasks,
        answer=answer(found),
        seeds=len(MODELS["sft"]),
    )
    write_text(page, head + "\n".join(_table(group, [c for c in found if c.group == group]) for group in GROUPS))


def answer(found: list[Contrast]) -> str:
    """The sentences, whichever way it falls."""
    before = [c for c in found if c.model == "base"]
    own = [c for c in found if c.model != "base" and c.by == "own"]
    by_base = [c for c in found if c.by == "base"]
    lost = [f"  - on {group}: {_lost([c for c in own if c.group == group])}" for group in GROUPS]
    parts = [
        f"- **Before tuning**: {_against(before)}",
        f"- **After tuning, the base's tail**: {_against(by_base)}",
        f"- **After tuning, its own tail**: {_against(own)}",
        "- **Is anything lost without its own tail?**",
        *lost,
    ]
    if any(c.rise[1] > 0 for c in own):
        parts.append(f'- So "pruning the tail of the tuned model loses nothing" does not hold here. {_most(own)}')
    if more := {c.group for c in found if c.difference[1] > 0}:
        parts.append(
            f"- Where the tail costs more than random experts, it is on {' and '.join(sorted(more))}: there, experts "
            "that the rows of the new tasks leave idle are in use."
        )
    if better := [c for c in found if c.rise[2] < 0]:
        parts.append(f"- In {len(better)} cases a model answers better without the tail: {_names(better)}.")
    return "\n".join(parts)


def _most(own: list[Contrast]) -> str:
    """What the tail costs at most where most experts are kept, on what was learnt and on the rest."""
    kept = max(c.kept for c in own)
    learnt, rest = ([c.rise[0] for c in own if c.kept == kept and (c.group == LEARNT) == now] for now in (True, False))
    return f"With {kept} kept it costs up to {max(learnt):.3f} nats on {LEARNT}, and up to {max(rest):.3f} elsewhere."


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
    """Which contrasts, four of them at most."""
    named = [f"{c.model}, {c.by} tail, on {c.group}, {c.kept} kept, weights {WAYS[c.way]}" for c in found[:4]]
    return "; ".join(named + ["..."] * (len(found) > 4))


def _lost(found: list[Contrast]) -> str:
    """How many rises are above zero, and how far exact match falls."""
    lost = [c for c in found if c.rise[1] > 0]
    fall = [100 * (c.accuracy[0] - c.accuracy[1]) for c in found]
    return (
        f"nll is higher in {len(lost)} of {len(found)} cases; its rise is {min(c.rise[0] for c in found):+.3f} to "
        f"{max(c.rise[0] for c in found):+.3f}, and the fall of exact match {min(fall):.1f} to {max(fall):.1f} points."
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
