"""A comparison as text: for the terminal, as Markdown, LaTeX or JSON. It formats what `compare_runs` found, no more."""

import io
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

MISSING = "—"
_WIDTH = 180
"""Characters of a table that goes into a file or a pipe."""
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "≤": r"$\leq$", "≥": r"$\geq$",
    "±": r"$\pm$", MISSING: "--",
}  # fmt: skip


def render(report: dict[str, Any], format: str) -> str:
    """A report in one of `FORMATS`."""
    if format == "json":
        return json.dumps(report, indent=1, allow_nan=False)
    write = FORMATS[format]
    parts = [write(title, *table) for title, table in tables(report)]
    notes = [note for each in _reports(report) for note in each["notes"]]
    return "\n\n".join([*parts, *([FOOTNOTES[format](notes)] if notes else [])])


def plain_table(title: str, titles: Sequence[str], cells: Sequence[Sequence[str]], format: str) -> str:
    """Any table of text in one of `FORMATS`."""
    return FORMATS[format](title, titles, cells)


def tables(report: dict[str, Any]) -> list[tuple[str, tuple[list[str], list[list[str]]]]]:
    """A table per metric, that of its nll after that of its accuracy: title, titles of columns, cells."""
    metrics = dict.fromkeys(row["metric"] for row in report["rows"])
    found = [_table(each, metric) for metric in metrics for each in _reports(report)]
    return [table for table in found if table is not None]


def _reports(report: dict[str, Any]) -> list[dict[str, Any]]:
    return [report, *([report["nll"]] if "nll" in report else [])]


def _table(report: dict[str, Any], metric: str) -> tuple[str, tuple[list[str], list[list[str]]]] | None:
    """One metric, with the columns that any arm has; None where the report has no such metric."""
    rows = [row for row in report["rows"] if row["metric"] == metric]
    if not rows:
        return None
    columns = _columns(report)
    cells = {title: [text(row) for row in rows] for title, text in columns.items()}
    shown = [title for title in columns if title in ("arm", "verdict") or set(cells[title]) - {MISSING, ""}]
    title = (
        f"{metric}: {report['metric']} in {report['unit']}, {len(report['seeds'])} seed(s), compared with "
        f"{report['baseline']}"
    )
    return title, (shown, [list(row) for row in zip(*(cells[name] for name in shown), strict=True)])


def _columns(report: dict[str, Any]) -> dict[str, Callable[[dict[str, Any]], str]]:
    """Titles and how to write a row's cell. The baseline has no difference, so its cells stay empty."""
    digits = 1 if report["unit"] == "points" else 3
    level = f"{100 * (1 - report['alpha']):g}%"

    def interval(value: dict[str, float] | None, sign: str = "") -> str:
        return "" if value is None else f" [{value['low']:{sign}.{digits}f}, {value['high']:{sign}.{digits}f}]"

    def compared(text: Callable[[dict[str, Any]], str]) -> Callable[[dict[str, Any]], str]:
        return lambda row: "" if row["difference"] is None else text(row) or MISSING

    def number(key: str, places: int) -> Callable[[dict[str, Any]], str]:
        return compared(lambda row: "" if row[key] is None else f"{row[key]:.{places}f}")

    def p_value(key: str) -> Callable[[dict[str, Any]], str]:
        return compared(lambda row: "" if row[key] is None else _p(row[key]))

    return {
        "arm": lambda row: row["arm"],
        f"mean [{level} CI]": lambda row: f"{row['mean']:.{digits}f}{interval(row['mean_interval'])}",
        f"difference [{level} t CI]": compared(
            lambda row: f"{row['difference']:+.{digits}f}{interval(row['t_interval'], '+')}"
        ),
        f"{level} bootstrap CI": compared(lambda row: interval(row["bootstrap_interval"], "+").strip()),
        "p (t)": p_value("t_p"),
        "p (Holm)": p_value("holm_p"),
        "p (Wilcoxon)": p_value("wilcoxon_p"),
        "McNemar": compared(_mcnemar),
        "effect g_z": number("effect_size", 2),
        "detectable": number("minimum_detectable", digits),
        "verdict": lambda row: row["verdict"],
    }


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _mcnemar(row: dict[str, Any]) -> str:
    """How many seeds' tests are below alpha; of one seed, its p."""
    values = row["mcnemar_p"]
    if values is None:
        return ""
    return _p(values[0]) if len(values) == 1 else f"{row['mcnemar_below_alpha']} of {len(values)} seeds"


def _terminal(title: str, titles: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    table = Table()
    for index, name in enumerate(titles):
        table.add_column(name, justify="right" if index > 0 and name != "verdict" else "left")
    for row in cells:
        table.add_row(*row)
    buffer = io.StringIO()
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _WIDTH
    Console(file=buffer, width=width, markup=False, highlight=False).print(table)
    return f"{title}\n{buffer.getvalue().rstrip()}"


def _markdown(title: str, titles: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    rule = "|---|" + "".join("---|" if name == "verdict" else "---:|" for name in titles[1:])
    rows = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in (titles, *cells)]
    return "\n".join([f"*{title}*", "", rows[0], rule, *rows[1:]])


def _latex(title: str, titles: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    columns = "l" + "".join("l" if name == "verdict" else "r" for name in titles[1:])
    head, *rows = [" & ".join(map(escape_latex, row)) + r" \\" for row in (titles, *cells)]
    lines = [f"% {title}", rf"\begin{{tabular}}{{{columns}}}", r"\hline", head, r"\hline", *rows, r"\hline"]
    return "\n".join([*lines, r"\end{tabular}"])


def _json(title: str, titles: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    rows = [dict(zip(titles, row, strict=True)) for row in cells]
    return json.dumps({"title": title, "rows": rows}, indent=1, ensure_ascii=False)


def escape_latex(text: str) -> str:
    """Text as LaTeX prints it."""
    return "".join(_LATEX.get(character, character) for character in text)


FORMATS: dict[str, Callable[[str, Sequence[str], Sequence[Sequence[str]]], str]] = {
    "terminal": _terminal,
    "markdown": _markdown,
    "latex": _latex,
    "json": _json,
}
FOOTNOTES: dict[str, Callable[[Sequence[str]], str]] = {
    "terminal": "\n".join,
    "markdown": lambda notes: "\n".join(f"- {note}" for note in notes),
    "latex": lambda notes: "\n".join(f"% {note}" for note in notes),
}
