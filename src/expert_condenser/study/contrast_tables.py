"""The contrasts and fronts of a study as text. It formats what `fronts` found, no more."""

import math
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

from expert_condenser.comparison.contrasts import MARGIN
from expert_condenser.comparison.fronts import SPREADS
from expert_condenser.comparison.tables import MISSING, plain_table
from expert_condenser.study.fronts import GAIN


def contrast_table(contrasts: Sequence[dict[str, Any]]) -> str:
    """The contrasts as Markdown."""
    return plain_table(*contrast_cells(contrasts), "markdown")


def contrast_cells(contrasts: Sequence[dict[str, Any]]) -> tuple[str, list[str], list[list[str]]]:
    """Title, titles of columns, and a row for each contrast, in the order of the study's file."""
    titles = [
        "contrast",
        "arm",
        "against",
        "of",
        "difference [95% CI]",
        "sd",
        "items' part",
        "p",
        "p (Holm)",
        "verdict",
    ]
    rows = [
        [
            each["name"],
            f"{each['arm']} {_value(each, 0)}",
            f"{each['against']} {_value(each, 1)}",
            f"{each['measure']} of {each['of']}, {each['unit']}",
            f"{each['difference']:+.{_digits(each)}f}{_interval(each['interval'], _digits(each))}",
            MISSING if each["sd"] is None else f"{each['sd']:.{_digits(each)}f}",
            MISSING if each["item_share"] is None else f"{each['item_share']:.0%}",
            *(MISSING if each[key] is None else _p(each[key]) for key in ("p", "holm_p")),
            each["verdict"],
        ]
        for each in contrasts
    ]
    title = f"Contrasts, paired over seeds and items; Holm's correction is over the {len(contrasts)} of them"
    return title, titles, rows


def front_table(fronts: dict[str, Any], seeds: int) -> str:
    """The fronts as Markdown, and what the screening rule drops."""
    table, (rule, *notes) = plain_table(*front_cells(fronts, seeds), "markdown"), front_notes(fronts, seeds)
    parts = [table, rule, "\n".join(f"- {note}" for note in notes)]
    return "\n\n".join(part for part in parts if part)


def front_notes(fronts: dict[str, Any], seeds: int) -> list[str]:
    """What the screening rule drops, nothing with one seed; then the tasks that have no nll of single items."""
    dropped = ", ".join(fronts["dropped"]) or "none"
    rule = (
        f"Dropped, as {fronts['against']}'s front dominates every point of the grid by more than {SPREADS:g} sd: "
        f"{dropped}."
    )
    return [rule if seeds > 1 else "", *(f"{name} has no nll of single items" for name in fronts["without_items"])]


def front_cells(fronts: dict[str, Any], seeds: int) -> tuple[str, list[str], list[list[str]]]:
    """Title, titles of columns, and a row for each arm."""
    against = fronts["against"]
    titles = ["arm", "hypervolume, %", f"difference from {against} [95% CI]", "items' part", "kept", "dominated at"]
    rows = []
    for arm, found in fronts["arms"].items():
        rows.append(
            [
                arm,
                f"{mean(found['scores']):.2f}" + (f" ± {stdev(found['scores']):.2f}" if seeds > 1 else ""),
                "" if arm == against else f"{found['difference']:+.2f}{_interval(found['interval'], 2)}",
                MISSING if found["item_share"] is None else f"{found['item_share']:.0%}",
                MISSING if found["kept"] is None else f"{100 * found['kept']:.1f}",
                MISSING if found["dominated"] is None else f"{sum(found['dominated'])} of {len(found['dominated'])}",
            ]
        )
    title = (
        f"Fronts over the grid: area of (exp(-task nll), exp(-rise of the old nll)), reference point (0, 0), margin "
        f"{MARGIN:g}; kept is the second at {GAIN:.0%} of {against}'s best gain"
    )
    return title, titles, rows


def _value(each: dict[str, Any], which: int) -> str:
    """The arm's mean; of logarithms the geometric mean of what they are of."""
    centre = mean(each["scores"][which])
    return f"{math.exp(centre):.4f}" if each["measure"] == "log_nll" else f"{centre:.{_digits(each)}f}"


def _digits(each: dict[str, Any]) -> int:
    return 3 if each["unit"] in ("nats", "log ratio") else 2


def _interval(value: dict[str, float] | None, digits: int) -> str:
    return "" if value is None else f" [{value['low']:+.{digits}f}, {value['high']:+.{digits}f}]"


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"
