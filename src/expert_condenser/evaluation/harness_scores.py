"""What lm-eval's own task makes of answers, for tasks that it has too: its filters and its metric, from its package.

The questions are asked as this package asks them, so this is the score of lm-eval's rules for reading an answer, not of
its prompt with five examples.
"""

from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from expert_condenser.evaluation.record import Record

TASKS = {"gsm8k": "gsm8k/gsm8k.yaml"}
"""Our task -> the file of lm-eval's."""


def harness_scores(task: str, records: Sequence[Record]) -> dict[str, Any] | None:
    """Accuracy by each filter of lm-eval's task, with lm-eval's version; None without lm-eval, or such a task."""
    config = _config(task)
    if config is None or not records:
        return None
    outputs = [_cut(record.output, config["generation_kwargs"]["until"]) for record in records]
    golds = [f"#### {record.gold}" for record in records]
    scores = {chain["name"]: _score(chain, config["metric_list"][0], outputs, golds) for chain in config["filter_list"]}
    return {"version": version("lm_eval"), **scores}


@lru_cache
def _config(task: str) -> dict[str, Any] | None:
    """lm-eval's own file of a task."""
    try:
        version("lm_eval")
    except PackageNotFoundError:
        return None
    package = find_spec("lm_eval")
    folders = package.submodule_search_locations if package else None
    path = Path(next(iter(folders or ["."]))) / "tasks" / TASKS.get(task, "")
    return yaml.safe_load(path.read_text()) if path.is_file() else None


def _cut(output: str, until: Sequence[str]) -> str:
    """The text up to the first of the texts that lm-eval stops at."""
    return output[: min((at for stop in until if (at := output.find(stop)) >= 0), default=len(output))]


def _score(chain: dict[str, Any], metric: dict[str, Any], outputs: list[str], golds: list[str]) -> float:
    """The metric over what a chain of filters leaves of the outputs."""
    from lm_eval.api.metrics import exact_match_hf_evaluate
    from lm_eval.filters import get_filter  # which registers them

    found: Any = [[output] for output in outputs]
    for step in chain["filter"]:
        options = {key: value for key, value in step.items() if key != "function"}
        found = list(get_filter(step["function"])(**options).apply(found, [{}] * len(outputs)))
    options = {key: metric[key] for key in ("ignore_case", "ignore_punctuation", "regexes_to_ignore") if key in metric}
    return float(exact_match_hf_evaluate(found, golds, **options)["exact_match"])
