"""A run in a terminal: where it stands, the heat map, the curves; as wide as the terminal is."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from rich.console import Console, ConsoleOptions
from rich.text import Text

from expert_condenser.watch.heat_map import (
    BARS,
    UNUSED,
    USAGE_SCALE,
    Row,
    bias_levels,
    bias_scale,
    even_shares,
    pooled,
    rows_of,
    usage_levels,
)
from expert_condenser.watch.look import Look
from expert_condenser.watch.standing import State

Show = Literal["usage", "bias"]
CURVES: Mapping[str, str] = {
    "nll": "nll",
    "eval_nll": "eval nll",
    "grad_norm": "gradient norm",
    "expert_diversity": "diversity",
    "usage_gini": "Gini",
    "dead_experts": "dead experts",
    "bias_range": "bias range",
    "route_churn": "route churn",
}
"""Names in the log, and for people."""
_RAMP = ("#440154", "#443983", "#31688e", "#21918c", "#35b779", "#90d743", "#c8e020", "#fde725")
"""Viridis, dark to bright: the brighter, the more."""
_ASCII = str.maketrans(BARS + UNUSED, "_.-:=+*# ")
"""The bars where only ASCII can be shown."""
_MARK = "bold black on bright_magenta"
_STATES = {State.FINISHED: "green", State.STOPPED: "red", State.SILENT: "yellow"}


class RunView:
    """What rich draws of one look at a run."""

    def __init__(self, look: Look, show: Show = "usage", hint: str = "") -> None:
        self.look, self.show, self.hint = look, show, hint

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """Draw it in the width that there is."""
        look, width = self.look, options.max_width
        curves = [name for name in CURVES if look.files.curve(name)]
        room = max(4, console.height - len(curves) - 8) if console.is_terminal else 1000
        drawn = [head(look), *_heat(look, self.show, width, room)]
        if not console.is_terminal and look.files.condensers:  # no colour, and at one column a cell no star
            drawn.append(_named(look.files.condensers))
        drawn += [_curve(name, look.files.curve(name), width) for name in curves]
        drawn += [Text(f"left out: {problem}", style="yellow") for problem in look.files.unreadable]
        drawn += [Text(self.hint, style="dim")] if self.hint else []
        for text in drawn:
            if options.ascii_only:  # what cannot be encoded would end the program
                text.plain = text.plain.translate(_ASCII)
            yield text


def head(look: Look) -> Text:
    """Who, how far, how fast, and how it stands."""
    files, record = look.files, look.files.record
    parts = [str(files.folder)] if record is None else [str(files.folder), record.arm or record.method]
    if files.phase is not None:
        parts += [files.phase, f"step {files.step} of {files.total_steps() or '?'}"]
    parts += look.speed()
    style = _STATES.get(look.standing.state, "bold")
    return Text(" | ".join(parts)).append("\n").append(look.standing.text, style=style)


def _heat(look: Look, show: Show, width: int, room: int) -> Iterator[Text]:
    usage = look.files.usage
    if usage is None:
        yield Text("no interval of the usage is recorded yet", style="dim")
        return
    if show == "bias" and usage.bias is None:
        yield Text("this method has no bias; the usage:", style="dim")
        show = "usage"
    table = usage.bias.float() if show == "bias" and usage.bias is not None else even_shares(usage.counts)
    margin = len(str(table.shape[0])) * 2 + 2
    pool, down, across = pooled(table, room, width - margin)
    levels = bias_levels(pool) if show == "bias" else usage_levels(pool)
    wide = 2 if 2 * len(levels[0]) + margin <= width else 1
    scale = bias_scale(pool) if show == "bias" else USAGE_SCALE
    of = f", {across} experts a cell" if across > 1 else ""
    yield Text(f"layer x expert, {show} of the steps to {usage.step}{of}", style="bold")
    for row in rows_of(levels, look.files.condensers, down, across):
        yield _line(row, margin, wide)
    marks = "  * condenser" if wide == 2 and look.files.condensers else ""
    yield Text(f"{scale}{marks}", style="dim")


def _line(row: Row, margin: int, wide: int) -> Text:
    """One layer. A condenser has a star behind it where there is room, and a colour everywhere."""
    line = Text(f"{row.label:>{margin - 1}} ", no_wrap=True)
    for level, marked in zip(row.levels, row.marked, strict=True):
        mark = {1: "", 2: "*" if marked else " "}[wide]
        line.append((UNUSED if level < 0 else BARS[level]) + mark, _MARK if marked else _RAMP[max(0, level)])
    return line


def _named(condensers: Mapping[int, Sequence[int]]) -> Text:
    parts = (f"{layer}: {' '.join(map(str, ids))}" for layer, ids in sorted(condensers.items()) if ids)
    return Text(f"condensers by layer  {', '.join(parts)}")


def _curve(name: str, values: Sequence[float], width: int) -> Text:
    """The name, the last value, and the curve in what is left of the line."""
    line = Text(f"{CURVES[name]:<13} {values[-1]:>9.4g}  ", no_wrap=True)
    return line.append(spark(values, max(8, width - len(line) - 8)), style="cyan")


def spark(values: Sequence[float], width: int) -> str:
    """A curve in one line of bars, from the lowest value to the highest; means over neighbours where it is long."""
    finite = [value for value in values if value == value and abs(value) != float("inf")]
    if not finite:
        return ""
    size = -(-len(finite) // width)
    means = [sum(part) / len(part) for part in (finite[at : at + size] for at in range(0, len(finite), size))]
    low, high = min(means), max(means)
    step = (high - low) / (len(BARS) - 1) or 1.0
    return "".join(BARS[round((value - low) / step)] for value in means)
