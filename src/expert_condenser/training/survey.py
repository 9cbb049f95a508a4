"""What a run would train on: everything about its data that can be known without weights, found and not raised."""

import datetime
from dataclasses import asdict, dataclass, field, replace

from expert_condenser.checkpoint.load import resolve_model
from expert_condenser.data.examples import build_examples
from expert_condenser.data.mixture import sources_of
from expert_condenser.data.report import DataReport
from expert_condenser.data.stops import stops_of_model
from expert_condenser.errors import ExpertCondenserError
from expert_condenser.training.recipe import Recipe
from expert_condenser.training.rows import check_ids, check_lengths, reading_of, tokenizer_of

FORMAT_VERSION = 1


@dataclass
class Survey:
    """The facts about a recipe's data, and what is wrong with it."""

    report: DataReport | None = None
    stop_tokens: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def content(self) -> dict[str, object]:
        """As JSON."""
        report = self.report
        files = {} if report is None else report.files
        refused = [] if report is None else report.refused
        return {
            "format_version": FORMAT_VERSION,
            "files": {split: [asdict(file) for file in found] for split, found in files.items()},
            "rows": {
                "used": 0 if report is None else report.used,
                "refused": [{"file": row.file, "row": row.row, "reason": row.reason} for row in refused],
            },
            "unused_columns": [] if report is None else report.unused_columns,
            "sample": None if report is None or report.sample is None else asdict(report.sample),
            "stop_tokens": self.stop_tokens,
            "lengths": None if report is None else asdict(report.lengths),
            "warnings": self.warnings,
            "errors": self.errors,
        }


def survey_of(recipe: Recipe) -> Survey:
    """Read and check all rows as `train` does, and note what is wrong instead of stopping at it."""
    survey = Survey()
    try:
        _look(recipe, survey)
    except ExpertCondenserError as error:
        survey.errors.append(str(error))
    return survey


def _look(recipe: Recipe, survey: Survey) -> None:
    tokenizer = tokenizer_of(recipe)
    stops = stops_of_model(resolve_model(recipe.run.model), tokenizer, recipe.run.revision)
    survey.stop_tokens = [str(tokenizer.convert_ids_to_tokens(stop)) for stop in stops]
    reading = replace(reading_of(recipe, datetime.date.today()), survey=True)
    examples = build_examples(sources_of(recipe.data.data), tokenizer, stops, reading)
    report = survey.report = examples.report
    if report.refused and (recipe.data.on_bad_row == "error" or not report.used):
        more = f" ({len(report.refused) - 1} more such rows)" if report.refused[1:] else ""
        survey.errors.append(f"{report.refused[0]}{more}")
    survey.warnings += report.warnings
    if report.unused_columns:
        survey.warnings.append(f"columns that are not used: {', '.join(report.unused_columns)}")
    survey.warnings += check_lengths(recipe.data.data, report, reading)
    check_ids(recipe, tokenizer, examples.dataset)
    if recipe.data.eval_data is not None:
        build_examples(
            sources_of(recipe.data.eval_data),
            tokenizer,
            stops,
            replace(reading, split=recipe.data.eval_split, limit=None, survey=False),
        )
