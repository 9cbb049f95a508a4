"""Reports as tables: for the terminal, and as Markdown for docs/performance.md."""

from collections.abc import Callable
from typing import Any

from rich.table import Table

COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {
    "median_s": ("ms", lambda value: f"{value * 1e3:,.1f}"),
    "iqr_s": ("± IQR", lambda value: f"{value * 1e3:,.1f}"),
    "ratio": ("ratio", lambda value: f"{value:.2f}"),
    "tokens_per_s": ("tokens/s", lambda value: f"{value:,.0f}"),
    "flops_per_s": ("GFLOP/s", lambda value: f"{value / 1e9:,.0f}"),
    "roofline_share": ("of dense", lambda value: f"{value:.0%}"),
    "grouped_roofline_share": ("of groups", lambda value: f"{value:.0%}"),
    "peak_mb": ("peak MB", lambda value: f"{value:,.0f}"),
    "callback_share": ("callback", lambda value: f"{value:.2%}"),
}


def rows(report: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Titles and cells: one row per arm, the columns that any arm has."""
    arms = report["arms"]
    shown = {key: column for key, column in COLUMNS.items() if any(arm.get(key) is not None for arm in arms.values())}
    cells = [
        [name, *("" if arm.get(key) is None else text(arm[key]) for key, (_, text) in shown.items())]
        for name, arm in arms.items()
    ]
    return ["arm", *(title for title, _ in shown.values())], cells


def report_table(report: dict[str, Any]) -> tuple[Table, list[str]]:
    """The report for a person, and what to know about it."""
    titles, cells = rows(report)
    table = Table(title=_title(report))
    for index, title in enumerate(titles):
        table.add_column(title, justify="right" if index else "left")
    for row in cells:
        table.add_row(*row)
    return table, _notes(report)


def markdown(content: dict[str, Any]) -> str:
    """A report as a Markdown table; of a sweep, one row per value."""
    if "reports" in content:
        return _sweep(content)
    titles, cells = rows(content)
    return "\n".join([f"*{_title(content)}*", "", _line(titles), _rule(titles), *map(_line, cells), *_lines(content)])


def _lines(report: dict[str, Any]) -> list[str]:
    notes = _notes(report)
    return ["", *(f"- {note}" for note in notes)] if notes else []


def _sweep(content: dict[str, Any]) -> str:
    """Milliseconds of every arm by the value that changes."""
    size, _, values = content["sweep"].partition("=")
    reports = content["reports"]
    names = list(dict.fromkeys(name for report in reports for name in report["arms"]))
    titles = [size, *(f"{name} ms" for name in names), f"{names[0]} of dense"]
    lines = []
    for value, report in zip(values.split(","), reports, strict=False):
        arms = report["arms"]
        share = arms.get(names[0], {}).get("roofline_share")
        cells = [f"{arms[name]['median_s'] * 1e3:,.1f}" if name in arms else "" for name in names]
        lines.append(_line([value, *cells, "" if share is None else f"{share:.0%}"]))
    return "\n".join([f"*{_title(reports[0])}, {size} as below*", "", _line(titles), _rule(titles), *lines])


def _title(report: dict[str, Any]) -> str:
    sizes = ", ".join(f"{key}={value}" for key, value in report["shape"].items() if key != "family")
    return (
        f"{report['workload']}, {report['shape']['family']}: {sizes}; {report['dtype']} on {report['device']}, "
        f"{report['threads']} threads, {report['rounds']} rounds"
    )


def _notes(report: dict[str, Any]) -> list[str]:
    notes = [f"left out: {name}: {reason}" for name, reason in report["skipped"].items()]
    if "roofline_flops_per_s" in report:
        dense, grouped = (report[f"roofline{kind}_flops_per_s"] / 1e9 for kind in ("", "_grouped"))
        notes.append(f"this machine, same FLOPs: {dense:,.0f} GFLOP/s in dense products, {grouped:,.0f} in E groups")
    return notes


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(titles: list[str]) -> str:
    return "|---|" + "---:|" * (len(titles) - 1)
