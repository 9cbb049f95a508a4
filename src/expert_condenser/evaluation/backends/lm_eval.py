"""The same questions through lm-eval: it generates, in its own way, and keeps its own files; the scores are ours.

The tasks go to lm-eval as local files, with the packaged `harness_tasks/generate.yaml`, so nothing is downloaded.
"""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from transformers import PreTrainedTokenizerBase

from expert_condenser.errors import EvaluationError
from expert_condenser.evaluation.backends.local import LocalBackend
from expert_condenser.evaluation.generation import Answer, Generation
from expert_condenser.evaluation.identity import identity_of
from expert_condenser.evaluation.prompts import Prompt, rendered
from expert_condenser.evaluation.tasks.task import LoadedTask

COMMON = Path(__file__).parent / "harness_tasks" / "generate.yaml"


class LmEvalBackend:
    """lm-eval's `HFLM` on the model of a `LocalBackend`, greedily and over all tasks in one go.

    lm-eval answers whole tasks, so it is told them at the beginning, and the first prompt makes it answer all of them;
    a killed evaluation asks them again. Its own files go to `folder`. Raises `EvaluationError` without lm-eval, or
    where it cannot do what is asked.
    """

    def __init__(self, model: LocalBackend, tasks: Sequence[LoadedTask], generation: Generation, folder: Path) -> None:
        _check(tasks, generation)
        self.local, self.tasks, self.generation, self.folder = model, tasks, generation, folder
        self.identity = identity_of(model.name, backend="lm_eval", dtype=model.dtype)

    def generate(self, prompts: list[str], max_new_tokens: int, generation: Generation, seed: int) -> list[Answer]:
        """The answers that lm-eval has found to these prompts."""
        return [self.answers[prompt, max_new_tokens] for prompt in prompts]

    def nll(self, prompts: Sequence[Prompt], references: Sequence[str], batch_size: int) -> float | None:
        """None: lm-eval only generates here."""
        return None

    @cached_property
    def answers(self) -> dict[tuple[str, int], Answer]:
        """Rendered prompt and the most tokens of its answer -> the answer."""
        tokenizer, found = self.local.tokenizer, {}
        names = {_harness_name(task): task for task in self.tasks}
        for name, task in names.items():
            _write_task(self.folder, name, task, self._limit(task), tokenizer)
        samples = self._simple_evaluate(list(names))
        for name, task in names.items():
            prompts, limit = rendered([question.prompt for question in task.questions], tokenizer), self._limit(task)
            for sample in samples[name]:
                text = sample["resps"][0][0]
                tokens = len(tokenizer(text, add_special_tokens=False)["input_ids"])
                found[prompts[int(sample["doc_id"])], limit] = Answer(text, tokens, tokens < limit)
        return found

    def _limit(self, task: LoadedTask) -> int:
        return self.generation.max_new_tokens or task.max_new_tokens

    def _simple_evaluate(self, names: list[str]) -> dict[str, list[dict[str, Any]]]:
        """lm-eval's samples per task; its own scores go to `results.json` in `folder`."""
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        local = self.local
        evaluated = simple_evaluate(
            model=HFLM(pretrained=local.model, tokenizer=local.tokenizer, batch_size=self.generation.batch_size),
            tasks=names,
            task_manager=TaskManager(include_path=str(self.folder), include_defaults=False),
            apply_chat_template=True,
            log_samples=True,
            bootstrap_iters=0,
        )
        (self.folder / "results.json").write_text(json.dumps(evaluated["results"], indent=1, default=str) + "\n")
        samples: dict[str, list[dict[str, Any]]] = evaluated["samples"]
        return samples


def _check(tasks: Sequence[LoadedTask], generation: Generation) -> None:
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


def _write_task(folder: Path, name: str, task: LoadedTask, limit: int, tokenizer: PreTrainedTokenizerBase) -> None:
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
        "generation_kwargs": {"until": [tokenizer.eos_token], "max_gen_toks": limit, "do_sample": False},
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(own))
