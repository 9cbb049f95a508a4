"""`condenser check --config recipe.yaml [--json [FILE]]`: what a run would train on, without weights."""

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from expert_condenser.cli.console import put_json, quiet_libraries
from expert_condenser.errors import DataError, ExpertCondenserError, PlanError
from expert_condenser.names import canonical

_SHOWN = 20
"""Refused rows that are printed; JSON has all of them."""
_USAGE = """condenser check --config recipe.yaml [--name value ...] [--json [FILE]]
                [--verbosity {error,warning,info,debug}]

Reads a recipe as `condenser train` does, and every row of its data, but no weight. Shows which files of which split are
read, the rows that are used and those that cannot be, columns that are not used, one row with its trained tokens in
colour, the tokens that generation stops at, what max_length costs, and the
memory that training needs. Exit status 0, or 2 where train would refuse."""


def run(words: list[str]) -> None:
    """Show what a recipe trains on; raises `DataError` where a run would be refused."""
    if {"-h", "--help"} & set(words):
        print(_USAGE)
        return
    target, words = _without_json(words)
    from expert_condenser.training.parse import parse_recipe
    from expert_condenser.training.survey import Survey, survey_of

    quiet_libraries()
    plan = None
    try:
        recipe = parse_recipe(words)
        survey = survey_of(recipe)
        plan = None if survey.errors else _plan_of(recipe, survey)
    except ExpertCondenserError as error:
        if target is None:
            raise
        survey = Survey(errors=[str(error)])
    if target is not None:
        put_json(target, {**survey.content(), "plan": plan}, indent=2)
    else:
        _show(survey)
        if plan is not None:
            print(f"plan: {plan['text']}")
    if survey.errors:
        raise DataError("; ".join(survey.errors))


def _plan_of(recipe: Any, survey: Any) -> dict[str, Any] | None:
    """The plan's line; its warnings go to those of the survey. None where the model cannot be planned."""
    from expert_condenser.planning.outline import outline

    try:
        found = asdict(outline(recipe))
    except PlanError as error:
        survey.warnings.append(f"no plan: {error}")
        return None
    survey.warnings += found.pop("warnings")
    return found


def _without_json(words: list[str]) -> tuple[str | None, list[str]]:
    """The value of `--json` (`-` is stdout), and the words of the recipe."""
    for at, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag.startswith("--") and canonical(flag) == "json":
            has_value = not equals and at + 1 < len(words) and not words[at + 1].startswith("--")
            target = value if equals else words[at + 1] if has_value else "-"
            return target, words[:at] + words[at + (2 if has_value else 1) :]
    return None, words


def _show(survey: "Survey") -> None:  # type: ignore[name-defined]  # noqa: F821
    console = Console()
    report = survey.report
    if report is not None:
        files = Table(title="Files")
        for name in ("split", "file", "rows"):
            files.add_column(name, justify="right" if name == "rows" else "left", overflow="fold")
        for split, found in report.files.items():
            for file in found:
                files.add_row(split, file.path, f"{file.rows:,}")
        console.print(files)
        console.print(f"rows used: {report.used:,}; refused: {len(report.refused):,}; examples: {report.examples:,}")
        for row in report.refused[:_SHOWN]:
            console.print(Text(f"  {row}", style="red"))
        if len(report.refused) > _SHOWN:
            console.print(f"  ... and {len(report.refused) - _SHOWN:,} more (--json has all)")
        lengths = report.lengths
        console.print(
            f"tokens: mean {lengths.mean}, longest {lengths.max}; cut: {lengths.truncated}, without an answer then: "
            f"{lengths.without_answer}"
        )
        if report.sample is not None:
            console.print("the first example, what is trained in green; evaluation asks what stands before it:")
            console.print(
                Text(report.sample.prompt_text, style="dim") + Text(report.sample.trained_text, style="green")
            )
    console.print(Text(f"generation stops at: {', '.join(survey.stop_tokens)}"))
    for warning in survey.warnings:
        console.print(Text(f"warning: {warning}", style="yellow"))
    if not survey.errors:
        console.print("nothing is wrong with the data")
