"""A run as one page that refreshes itself: no network, light and dark, a table of numbers under the colours.

The file is written anew at every look, whole or not at all; a browser loads it again by its own script, which a button
pauses. A page of a run that is over loads nothing again.
"""

import io
from html import escape
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from expert_condenser.files import write_text
from expert_condenser.watch.heat_map import even_shares
from expert_condenser.watch.look import Look
from expert_condenser.watch.terminal import CURVES

GENERATOR = '<meta name="generator" content="condenser watch">'
"""By which a page of ours is known."""
_INK, _GRID, _LINE = "#010203", "#040506", "#070809"
"""Colours that matplotlib draws with, which the page's style then gives meaning to."""
_MEANING = {_INK: "var(--ink)", _GRID: "var(--grid)", _LINE: "var(--line)"}
_MOST = 4.0
"""Even shares from which a cell is as strong as it gets."""


def write_page(look: Look, path: Path, every: float | None) -> None:
    """Write the page; the browser loads it again after `every` seconds, or not at all."""
    write_text(path, page(look, every))


def page(look: Look, every: float | None) -> str:
    """The whole page."""
    files, record = look.files, look.files.record
    title = str(files.folder) if record is None else f"{files.folder}, {record.arm or record.method}"
    problems = "".join(f"<p>left out: {escape(problem)}</p>" for problem in files.unreadable)
    body = f"<p>{escape(_progress(look))}</p>\n{_reloading(every)}{problems}\n{_heat(look)}\n{_curves(look)}"
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{GENERATOR}\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n<h1>{escape(title)}</h1>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _reloading(every: float | None) -> str:
    """The button, and the script behind it."""
    if every is None:
        return ""
    return f'<button id="pause">Pause</button>\n<script>{_SCRIPT % max(1000, every * 1000)}</script>'


def _progress(look: Look) -> str:
    files = look.files
    where = [] if files.phase is None else [files.phase, f"step {files.step} of {files.total_steps() or '?'}"]
    return " · ".join([look.standing.text, *where, *look.speed()])


def _heat(look: Look) -> str:
    """The table: a row per layer, a cell per expert; its title has the numbers."""
    usage = look.files.usage
    if usage is None:
        return "<p>No interval of the usage is recorded yet.</p>"
    shares, condensers = even_shares(usage.counts), look.files.condensers
    rows = []
    for layer, row in enumerate(shares):
        own = condensers.get(layer, [])
        cells = "".join(_cell(layer, e, float(s), usage.bias, e in own) for e, s in enumerate(row))
        rows.append(f'<tr><th scope="row">{layer}</th>{cells}</tr>')
    table = f"<table>{''.join(rows)}</table>"
    return (
        f"<h2>Experts in the steps to {usage.step}</h2>\n<p>A row is a layer, a cell an expert: the stronger, the more "
        f"it is chosen; from {_MOST:g} times an even share on all are alike. An unused one is empty, a "
        f"condenser framed.</p>\n{_scrolling('usage by layer and expert', table)}"
    )


def _scrolling(label: str, content: str) -> str:
    """What is wider than a phone, reachable by the keyboard."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">{content}</div>'


def _cell(layer: int, expert: int, share: float, bias: Float[Tensor, "L E"] | None, condenser: bool) -> str:
    strength = min(1.0, share / _MOST) ** 0.5
    words = f"layer {layer}, expert {expert}: {share:.2f} of an even share"
    words += "" if bias is None else f", bias {float(bias[layer, expert]):+.4f}"
    words += ", condenser" if condenser else ""
    mark = ' class="condenser"' if condenser else ""
    return f'<td{mark} style="--s:{100 * strength:.0f}%" title="{words}"></td>'


def _curves(look: Look) -> str:
    """Every number of the log over the steps, as SVG."""
    names = [name for name in CURVES if look.files.curve(name)]
    if not names:
        return ""
    return f"<h2>Curves</h2>\n{_scrolling('curves', _svg(look, names))}"


def _svg(look: Look, names: list[str]) -> str:
    import matplotlib  # the extra `plots`
    from matplotlib.figure import Figure

    colours = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor"), _INK)
    with matplotlib.rc_context({**colours, "svg.fonttype": "none", "svg.hashsalt": "watch", "font.size": 9}):
        rows = -(-len(names) // 2)
        figure = Figure(figsize=(9, 1.9 * rows), layout="constrained")  # no pyplot: that would choose a backend
        figure.patch.set_alpha(0)
        axes = figure.subplots(rows, 2, squeeze=False).flatten()
        for axis, name in zip(axes, names, strict=False):
            _curve(axis, look, name)
        for axis in axes[len(names) :]:
            axis.remove()
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    drawn = text.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    for colour, meaning in _MEANING.items():
        drawn = drawn.replace(colour, meaning)
    last = ", ".join(f"{CURVES[name]} {look.files.curve(name)[-1]:.4g}" for name in names)
    return drawn.replace("<svg", f'<svg role="img" aria-label="by step; now: {escape(last)}"', 1)


def _curve(axis: Any, look: Look, name: str) -> None:
    axis.plot(*zip(*look.files.points(name), strict=True), color=_LINE, linewidth=1.3)
    for start in list(look.files.phases.values())[1:]:
        axis.axvline(start, color=_INK, linestyle=":", linewidth=1)
    axis.set_title(CURVES[name], loc="left", fontsize=9)
    axis.grid(color=_GRID)
    axis.patch.set_alpha(0)


_STYLE = """
:root { color-scheme: light dark; --ground: #fff; --ink: #1b1f24; --grid: #e2e6ea; --line: #0550ae; --strong: #0b3d91;
  --mark: #b3005e; }
@media (prefers-color-scheme: dark) { :root { --ground: #12161c; --ink: #e6edf3; --grid: #30363d; --line: #79b8ff;
  --strong: #ffd75e; --mark: #ff77b7; } }
body { background: var(--ground); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; margin: 1rem; }
main { max-width: 75rem; margin: auto; }
h1 { font-size: 1.3rem; overflow-wrap: anywhere; } h2 { font-size: 1.1rem; }
.scroll { overflow-x: auto; } svg { max-width: 100%; min-width: 34rem; height: auto; }
table { border-collapse: separate; border-spacing: 1px; }
th { font-weight: normal; text-align: right; padding-right: .4rem; }
td { min-width: .7rem; height: 1.1rem; padding: 0;
  background: color-mix(in srgb, var(--strong) var(--s), var(--grid)); }
td.condenser { outline: 2px solid var(--mark); outline-offset: -2px; }
button { font: inherit; padding: .2rem .8rem; }
"""
_SCRIPT = """
const key = 'condenser watch paused', button = document.getElementById('pause');
const paused = () => { try { return sessionStorage.getItem(key) === 'yes'; } catch { return false; } };
const name = () => { button.textContent = paused() ? 'Go on' : 'Pause'; };
button.onclick = () => { try { sessionStorage.setItem(key, paused() ? 'no' : 'yes'); } catch {} name(); };
name(); setInterval(() => { if (!paused()) location.reload(); }, %d);
"""
