"""`condenser watch RUN`: the live heat map and curves of a run, from its files alone."""

import argparse
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live

from expert_condenser.cli.console import say_result
from expert_condenser.cli.keys import pressed_within, reading_keys
from expert_condenser.cli.parsing import Parser
from expert_condenser.errors import UsageError

if TYPE_CHECKING:
    from expert_condenser.watch.look import Look


def run(words: list[str]) -> None:
    """Draw until the run is over, or once where nobody looks on or `--once` asks for it."""
    options = _read(words)
    from expert_condenser.watch.place import check_page, check_place  # once the words are right: torch

    check_place(options.run)
    if options.html is not None:
        check_page(options.html)
    console, view = Console(), _View(options)
    if options.once or not (console.is_terminal or options.html):
        console.print(view.draw("")[0])
    else:
        with suppress(KeyboardInterrupt):  # the usual way to end it: no error, and the run goes on
            _follow(view, console, options)
    if options.html is not None:
        view.write_page(last=True)
        say_result(options.html)


def _read(words: list[str]) -> argparse.Namespace:
    parser = Parser("watch", "What the experts of a run do while it trains; Ctrl-C ends the watching, and not the run.")
    parser.add_argument("run", type=Path, metavar="RUN", help="the output_dir of a training, a study or a demo")
    parser.add_argument("--show", choices=("usage", "bias"), default="usage", help="of the heat map; key b changes it")
    parser.add_argument("--once", action="store_true", help="print how it stands now, and end; so does a pipe")
    parser.add_argument("--every", type=_seconds, default=2.0, metavar="SECONDS", help="between two looks; default: 2")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write a page that refreshes itself; of one run")
    return parser.read(words)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a number of seconds; got {text!r}") from None
    if not 0.1 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"0.1 to 3600 seconds; got {text}")
    return value


class _View:
    """One run, or several: which of them is asked at every look, since a folder may not be there yet."""

    def __init__(self, options: argparse.Namespace) -> None:
        from expert_condenser.watch.look import Watcher
        from expert_condenser.watch.several import Group

        self.options, self.show = options, options.show
        self._one, self._several = Watcher(options.run), Group(options.run)
        self._look: Look | None = None
        self._written: object = None

    def draw(self, hint: str) -> tuple[Any, bool]:
        """What to draw, and whether it is the last of it."""
        from expert_condenser.watch.place import is_group
        from expert_condenser.watch.standing import OVER
        from expert_condenser.watch.terminal import RunView

        if is_group(self.options.run):
            if self.options.html is not None:
                raise UsageError(f"--html is the page of one run, and {self.options.run} has several; name one of them")
            return self._several.table(), self._several.is_over()
        self._look = look = self._one.look()
        over = look.standing.state in OVER
        if self.options.html is not None:
            self.write_page(last=over)
        return RunView(look, self.show, "" if over else hint), over

    def write_page(self, *, last: bool) -> None:
        """The page of the last look; the last page does not refresh itself."""
        from expert_condenser.watch.page import write_page

        if self._look is None:  # interrupted before the first
            return
        content = (self._look.files.step, self._look.standing, self._look.pace, last)
        if content != self._written:  # to draw takes half a second, of the run's time where there are few cores
            write_page(self._look, self.options.html, None if last else self.options.every)
            self._written = content


def _follow(view: _View, console: Console, options: argparse.Namespace) -> None:
    """Draw again and again; where a terminal has keys, b changes between usage and bias, and q ends."""
    keys = reading_keys() if console.is_terminal else nullcontext()
    with keys as keyboard, Live(console=console, auto_refresh=False) as live:
        hint = "Ctrl-C: end" if keyboard is None else "b: bias or usage   q: end"
        while True:
            drawn, over = view.draw(hint)
            if console.is_terminal:
                live.update(drawn, refresh=True)
            key = "q" if over else pressed_within(options.every, keyboard)
            if key == "q":
                return
            if key == "b":
                view.show = "usage" if view.show == "bias" else "bias"
