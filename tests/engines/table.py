"""The table of docs/engines.md: family x method x engine, from results and from the refusals of the product."""

import json
from pathlib import Path

from expert_condenser.training.engines.support import refusal
from expert_condenser.training.recipe import Recipe
from tests.engines.cases import FAMILIES, METHODS, MORE

PAGE = Path(__file__).parents[2] / "docs" / "engines.md"
RESULTS = Path(__file__).parent / "results.json"
BEGIN, END = "<!-- table: make engines -->\n", "<!-- end of table -->\n"
COLUMNS = ("ddp", "fsdp2", "zero2", "zero3", "ep")
ROWS = [(family, method) for family in FAMILIES for method in METHODS] + [(FAMILIES[0], method) for method in MORE]


def reason(method, engine):
    """Why an engine refuses a method; None where it does not."""
    options = {**(METHODS | MORE)[method], "data": "rows.jsonl", "output_dir": "run", "use_cpu": True, "bf16": False}
    return refusal(Recipe.of(**options), engine)


def table(results):
    """Markdown; `results` are `{"family: method": {engine: {"loss": x, "weights": y}}}`, largest differences."""
    reasons = []
    lines = [f"| family | method | {' | '.join(f'`{name}`' for name in COLUMNS)} |", "|---" * (2 + len(COLUMNS)) + "|"]
    for family, method in ROWS:
        cells = []
        for engine in COLUMNS:
            why = reason(method, engine)
            if why is None:
                found = results[f"{family}: {method}"][engine]
                cells.append(f"{max(found['loss'], found['weights']):.0e}")
            else:
                reasons += [why] if why not in reasons else []
                cells.append(f"refused ({reasons.index(why) + 1})")
        lines.append(f"| {family} | {method} | {' | '.join(cells)} |")
    notes = [f"{number}. {text}." for number, text in enumerate(reasons, 1)]
    return "\n".join([*lines, "", *notes, ""])


def written(page, results):
    """The page with the table in it."""
    head, _, rest = page.partition(BEGIN)
    return f"{head}{BEGIN}\n{table(results)}\n{END}{rest.partition(END)[2]}"


def main():
    PAGE.write_text(written(PAGE.read_text(), json.loads(RESULTS.read_text())))


if __name__ == "__main__":
    main()
