"""The same questions through lm-eval: it generates, in its own way, and keeps its own files; the scores are ours.

The tasks go to lm-eval as local files, with the packaged `harness_tasks/generate.yaml`, so nothing is downloaded.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from transformers import PreTrainedTokenizerBase

from expert_condenser.errors import EvaluationError
from expert_condenser.evaluation.backends.transformers_backend import Generation
from expert_condenser.evaluation.evaluate import scored, start_or_go_on
from expert_condenser.evaluation.record import ITEMS, Record, append_records, summarize, write_results
from expert_condenser.evaluation.tasks.task import LoadedTask

COMMON = Path(__file__).parent / "harness_tasks" / "generate.yaml"


def evaluate_harness(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[LoadedTask],
    out: Path,
    generation: Generation,
    *,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """As `evaluation.run.evaluate`, greedy and in one go. Raises as `check_harness`."""
    check_harness(tasks, generation)
    start_or_go_on(out, settings)
    names = {_harness_name(task): task for task in tasks}
    folder = out / "lm_eval"
    for name, task in names.items():
        _write_task(folder, name, task, generation, tokenizer)
    start = time.perf_counter()
    samples = _simple_evaluate(model, tokenizer, list(names), folder, generation.batch_size)
    seconds = time.perf_counter() - start
    (out / ITEMS).unlink(missing_ok=True)
    summaries, tokens = {}, 0
    for name, task in names.items():
        limit = generation.max_new_tokens or task.max_new_tokens
        records = [_record(task, sample, tokenizer, limit) for sample in sorted(samples[name], key=_position)]
        append_records(out / ITEMS, records)
        summaries[task.name] = {**summarize(records, 1), "nll": None}
        tokens += sum(record.tokens for record in records)
    throughput = {"seconds": round(seconds, 2), "new_tokens": tokens, "tokens_per_s": tokens / seconds}
    return write_results(out, {**settings, "throughput": throughput}, summaries)


def check_harness(tasks: Sequence[LoadedTask], generation: Generation) -> None:
    """Raise `EvaluationError` without lm-eval, or where it cannot do what is asked."""
    try:
        import lm_eval  # noqa: F401
    except ImportError as error:
        raise EvaluationError("--backend lm_eval needs lm-eval: pip install 'expert-condenser[eval]'") from error
    if generation.temperature > 0:
        raise EvaluationError(
            f"--backend lm_eval decodes greedily; got temperature {generation.temperature}. Leave one of them out"
        )
    long = [task.name for task in tasks if any(len(question.prompt) > 1 for question in task.questions)]
    if long:
        raise EvaluationError(f"--backend lm_eval asks questions of one turn; got more in {', '.join(long)}")


def _harness_name(task: LoadedTask) -> str:
    return f"condenser_{task.name.replace(':', '_')}"


def _write_task(
    folder: Path, name: str, task: LoadedTask, generation: Generation, tokenizer: PreTrainedTokenizerBase
) -> None:
    """The questions as JSON Lines, and the task's YAML, which includes the packaged one."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"id": question.id, "question": question.prompt[0]["content"], "gold": question.gold}
        for question in task.questions
    ]
    data = folder.resolve() / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = {
        "include": str(COMMON),
        "task": name,
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "generation_kwargs": {
            "until": [tokenizer.eos_token],
            "max_gen_toks": generation.max_new_tokens or task.max_new_tokens,
            "do_sample": False,
        },
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(own))


def _simple_evaluate(
    model: Any, tokenizer: PreTrainedTokenizerBase, names: list[str], folder: Path, batch_size: int
) -> dict[str, list[dict[str, Any]]]:
    """lm-eval's samples per task; its own scores go to `lm_eval/results.json`."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    evaluated = simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size),
        tasks=names,
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        apply_chat_template=True,
        log_samples=True,
        bootstrap_iters=0,
    )
    (folder / "results.json").write_text(json.dumps(evaluated["results"], indent=1, default=str) + "\n")
    return evaluated["samples"]


def _position(sample: dict[str, Any]) -> int:
    return int(sample["doc_id"])


def _record(task: LoadedTask, sample: dict[str, Any], tokenizer: PreTrainedTokenizerBase, limit: int) -> Record:
    question = task.questions[_position(sample)]
    output = sample["resps"][0][0]
    tokens = len(tokenizer(output, add_special_tokens=False)["input_ids"])
    unscored = Record(
        task=task.name,
        id=question.id,
        sample=0,
        prompt=[dict(turn) for turn in question.prompt],
        gold=question.gold,
        output=output,
        tokens=tokens,
        ended=tokens < limit,
        extracted=None,
        correct=False,
    )
    return scored(task, unscored)
