"""`condenser card DIR`: the card of a saved model, README.md, with what was measured of it."""

import argparse
from pathlib import Path

from expert_condenser.cli.console import say_result
from expert_condenser.cli.parsing import Parser
from expert_condenser.errors import UsageError


def run(words: list[str]) -> None:
    """Write the card, or print it."""
    options = _read(words)
    from expert_condenser.card.measured import measured_in, results_beside  # takes seconds to import
    from expert_condenser.checkpoint.card import CARD, card_of, check_own
    from expert_condenser.files import write_text

    results = options.results or results_beside(options.model)
    text = card_of(options.model, [] if results is None else measured_in(results, options.model), options.license)
    if options.print:
        print(text)
        return
    if not options.overwrite:
        check_own(options.model)
    write_text(options.model / CARD, text)
    say_result(options.model / CARD)


def _read(words: list[str]) -> argparse.Namespace:
    parser = Parser("card", "The card (README.md) of a saved model: its base, how it was made, what was measured.")
    parser.add_argument("model", type=Path, metavar="DIR", help="a saved model, such as RUN/model")
    parser.add_argument(
        "--results", type=Path, metavar="FILE", help="results.json of it; default: beside it, or its run's"
    )
    parser.add_argument("--license", help="of the base, as the hub names it: apache-2.0; default: what the base says")
    parser.add_argument("--print", action="store_true", help="print it, and write nothing")
    parser.add_argument("--overwrite", action="store_true", help="also a card that somebody wrote or edited")
    options = parser.read(words)
    if not options.model.is_dir():
        raise UsageError(f"a card is of a saved model, such as RUN/model; {options.model} is no directory")
    return options
