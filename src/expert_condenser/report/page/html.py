"""A report as one HTML file that asks nothing of any network: style, scripts, plotly.js and data are all within it.

Texts are escaped by the template; data are JSON without a `<`. The page's own policy (Content-Security-Policy) runs
these scripts alone, by their digests, and loads nothing.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from expert_condenser.errors import FolderError
from expert_condenser.report.page.analyses import Analysis
from expert_condenser.report.page.experts import expert_data
from expert_condenser.report.page.figures import Figure, curve_figures, tail_figure
from expert_condenser.report.page.recipes import options_table, recipe_of, versions_table
from expert_condenser.report.page.report import Report
from expert_condenser.report.page.tokens import token_data

MARKER = '<meta name="generator" content="expert-condenser report 1">'
"""In the head of every page, and what says that a file may be replaced."""
_HEAD = 4096
_SCRIPTS = ("data.js", "theme.js", "figures.js", "experts.js", "one_expert.js", "tokens.js")


def plotly_js() -> str:
    """The library that draws, as its Python package ships it; raises `ModuleNotFoundError` without the package."""
    from plotly.offline import get_plotlyjs  # an extra

    return str(get_plotlyjs())


def check_place(path: Path) -> None:
    """Raise `FolderError` where a page cannot be written: no folder, or a file there that is no page of ours."""
    if path.is_dir():
        raise FolderError(f"--out is a file; got the directory {path}")
    if not path.parent.is_dir():
        raise FolderError(f"--out is written into a directory that exists; there is no {path.parent}")
    if path.exists() and not _is_page(path):
        raise FolderError(f"--out replaces a report only, and {path} is another file; name another, or move it away")


def _is_page(path: Path) -> bool:
    with path.open("rb") as file:
        return MARKER.encode() in file.read(_HEAD)


def page_of(report: Report, analyses: Sequence[Analysis], library: str) -> str:
    """The page, complete; `library` is `plotly_js()`."""
    experts, tokens = expert_data(report.runs), token_data(report.runs)
    tail = tail_figure(report.runs)
    curves = [*([tail] if tail else []), *curve_figures(report.runs)]
    figures = [*([report.front] if report.front else []), *curves]
    scripts = [_inline(library), _inline("\n".join(map(_asset, _SCRIPTS)))]
    content = {
        "marker": Markup(MARKER),
        "version": version("expert-condenser"),
        "policy": _policy(scripts),
        "style": Markup(_asset("style.css")),
        "scripts": [Markup(script) for script in scripts],
        "report": report,
        "figures": figures,
        "front": report.front,
        "curves": curves,
        "experts": experts,
        "tokens": tokens,
        "analyses": analyses,
        "options": options_table(report.runs),
        "versions": versions_table(report.runs),
        "recipes": [*([report.reproduce] if report.reproduce else []), *map(recipe_of, report.runs)],
        "data": {"figures": [_drawn(figure) for figure in figures], "experts": experts, "tokens": tokens},
    }
    return _environment().get_template("page.html").render(content)


def _drawn(figure: Figure) -> Mapping[str, Any]:
    content = asdict(figure)
    return {name: content[name] for name in ("traces", "layout", "alt")}


def _environment() -> Environment:
    # Only one template, and it is HTML: everything is escaped that does not say itself that it is markup.
    return Environment(
        loader=FunctionLoader(_asset), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def _asset(name: str) -> str:
    return files("expert_condenser.report.page").joinpath("assets", name).read_text(encoding="utf-8")


def _inline(script: str) -> str:
    """A script as it stands in a page: a browser reads `\\r\\n` as `\\n`, and the digest is of what it reads."""
    script = script.replace("\r\n", "\n").replace("\r", "\n")
    if "</script" in script.lower() or "<!--" in script:
        raise AssertionError("a script that a page holds cannot end before its end")
    return script


def _policy(scripts: Sequence[str]) -> str:
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{each}'" for each in digests)
    # Plotly sets styles of elements, which no digest can name.
    rules = f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:"
    return f"{rules}; base-uri 'none'; form-action 'none'"
