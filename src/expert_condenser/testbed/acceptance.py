"""Whether a base model is a ground on which methods can be told apart: `condenser testbed accept`.

Four conditions: experts are used unevenly but all of them; the facts sit in few experts; these are not what the
fine-tuning task's prompts choose anyway; and fine-tuning learns the task, and forgets, within a grid of learning rates.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from shutil import rmtree
from statistics import fmean
from typing import Any

import torch

from expert_condenser.checkpoint.load import load_model, load_tokenizer
from expert_condenser.data.procedural.families import FACTS, MIXTURES, PRETRAINED, Item, items
from expert_condenser.data.sources import TESTBED
from expert_condenser.evaluation.teacher_forced import TeacherForced
from expert_condenser.files import read_json, write_json
from expert_condenser.functional.concentration import gini
from expert_condenser.methods.condenser import CONDENSERS, FORMAT_VERSION
from expert_condenser.testbed.specialization import answers_to, expert_shares, holders, taken_out
from expert_condenser.training.recipe import Recipe
from expert_condenser.training.run import train

MIXTURE = "fact_mixture"
TASKS = (*MIXTURES[MIXTURE], "unseen_fact_pairs")
RANDOM_DRAWS = 3


@dataclass(frozen=True)
class AcceptanceConfig:
    """How a base is examined."""

    learning_rates: tuple[float, ...] = (5e-5, 1e-4, 2e-4, 4e-4)
    experts: int = 12
    """P, how many experts of a layer are taken out."""
    limit: int = 400
    """Validation items of the facts and of every task; a fifth of it of every old family."""
    rows: int = 9000
    epochs: float = 1.0
    batch_size: int = 10
    seed: int = 0


@dataclass(frozen=True)
class Condition:
    """What a base must show, what it shows, and whether that is enough."""

    name: str
    wanted: str
    found: str
    met: bool


@dataclass(frozen=True)
class Acceptance:
    """Everything that was measured, and the conditions on it."""

    routing: dict[str, list[float]]
    """By layer: Gini index and dead experts on the task's rows, the share of the facts' experts."""
    taken_out: dict[str, dict[str, float]]
    """Accuracy on the facts and on every old family, by what was taken out."""
    tuned: dict[str, dict[str, float]]
    """Figures before and after fine-tuning, by learning rate."""
    conditions: list[Condition] = field(default_factory=list)

    @property
    def missed(self) -> list[str]:
        """Names of the conditions that do not hold."""
        return [condition.name for condition in self.conditions if not condition.met]


def accept(
    path: Path, output_dir: Path, config: AcceptanceConfig, advance: Callable[[int], None] = lambda runs: None
) -> Acceptance:
    """Examine the model in `path`; writes `accept.json` to `output_dir` and returns what is in it.

    The two experts of every layer that hold most of the facts go to `condensers.json`, for
    `condenser_rule: explicit`: with them always active, what a task must recall is always at hand. `advance` is
    called with 1 after every part. What a killed examination has measured of fine-tuning is kept.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    model, tokenizer = load_model(path), load_tokenizer(path)
    questions = _questions(config)
    routing, experts = _routing(model, tokenizer, questions, config)
    write_json(output_dir / CONDENSERS, _condensers(experts), indent=1)
    advance(1)
    without = _without(model, tokenizer, experts, questions, config)
    advance(1)
    tuned = {"base": _figures(model, tokenizer, questions)}
    for rate in config.learning_rates:
        tuned[f"{rate:g}"] = _tuned(path, output_dir, rate, questions, config)
        advance(1)
    measured = Acceptance(routing, without, tuned)
    accepted = Acceptance(routing, without, tuned, conditions(measured))
    write_json(output_dir / "accept.json", {"model": path.name, "config": asdict(config), **asdict(accepted)}, indent=1)
    return accepted


def conditions(measured: Acceptance) -> list[Condition]:
    """The conditions of a base, in the order in which they are printed."""
    return [*_on_routing(measured.routing), *_on_taking_out(measured.taken_out), *_on_tuning(measured.tuned)]


def _on_routing(routing: dict[str, list[float]]) -> list[Condition]:
    low, high, dead = min(routing["gini"]), max(routing["gini"]), max(routing["dead"])
    shares = [prompts / facts for prompts, facts in zip(routing["on prompts"], routing["on facts"], strict=True)]
    return [
        Condition(
            "uneven use", "Gini .30 to .55 in every layer", f"{low:.2f} to {high:.2f}", 0.3 <= low <= high <= 0.55
        ),
        Condition("no dead expert", "0 in every layer", f"{dead:.0f}", dead == 0),
        Condition(
            "facts' experts are not the task's",
            "share on the task's prompts at most half of that on facts",
            f"{fmean(shares):.2f} of it",
            fmean(shares) <= 0.5,
        ),
    ]


def _on_taking_out(accuracy: dict[str, dict[str, float]]) -> list[Condition]:
    def others(name: str) -> float:
        return fmean(value for family, value in accuracy[name].items() if family != FACTS.name)

    def is_specific(name: str) -> bool:
        return accuracy[name][FACTS.name] < 0.15 and others("none") - others(name) < 0.05

    facts, lost = accuracy["facts' experts"][FACTS.name], others("none") - others("facts' experts")
    draws = [name for name in accuracy if name.startswith("random")]
    kept = ", ".join(f"{accuracy[name][FACTS.name]:.0%}" for name in draws)
    known = accuracy["none"][FACTS.name]
    return [
        Condition("facts are known", "at least 90 %", f"{known:.1%}", known >= 0.9),
        Condition("facts without their experts", "below 15 %", f"{facts:.1%}", facts < 0.15),
        Condition("other families without them", "less than 5 points down", f"{100 * lost:.1f}", lost < 0.05),
        Condition("random experts instead", "not both of these", f"facts {kept}", not any(map(is_specific, draws))),
    ]


def _on_tuning(tuned: dict[str, dict[str, float]]) -> list[Condition]:
    before, *after = tuned.values()
    asked = ("fact_pairs", "worked_pairs")
    learnt = [run for run in after if all(run[name] > 0.8 for name in asked)]
    best = max((min(run[name] for name in asked) for run in after), default=0.0)
    rises = [run["old nll"] - before["old nll"] for run in after]
    new = max(before[name] for name in asked)
    return [
        Condition("the task is new", "at most 5 % before", f"{new:.1%}", new <= 0.05),
        Condition("the task is learnt", "both above 80 % at some learning rate", f"{best:.1%}", bool(learnt)),
        Condition(
            "forgetting has no floor and no ceiling",
            "old nll up by .1 or less at the lowest rate, by .1 to 1.5 at the highest",
            f"{rises[0]:+.2f} to {rises[-1]:+.2f}",
            rises[0] <= 0.1 <= rises[-1] <= 1.5,
        ),
    ]


def _questions(config: AcceptanceConfig) -> dict[str, list[Item]]:
    """Validation items: of the facts and the tasks `limit`, of every old family a fifth of it."""
    counts = {**dict.fromkeys((FACTS.name, *TASKS), config.limit)}
    counts |= {family.name: max(1, config.limit // 5) for family in PRETRAINED}
    return {name: items(name, "validation", count) for name, count in counts.items()}


def _routing(
    model: Any, tokenizer: Any, questions: dict[str, list[Item]], config: AcceptanceConfig
) -> tuple[dict[str, list[float]], torch.Tensor]:
    """Figures by layer, and the facts' experts."""
    task = items(MIXTURE, "finetune", config.rows, config.seed)
    old = [item for family in PRETRAINED for item in questions[family.name]]
    on_task, on_facts, on_old = (expert_shares(model, tokenizer, rows) for rows in (task, questions[FACTS.name], old))
    experts = holders(on_facts, on_old, config.experts)
    prompts = [*questions["fact_pairs"], *questions["unseen_fact_pairs"]]
    on_prompts = expert_shares(model, tokenizer, prompts, answers=False)
    figures = {
        "gini": gini(on_task).tolist(),
        "dead": (on_task == 0).sum(1).tolist(),
        "on facts": on_facts.gather(1, experts).sum(1).tolist(),
        "on old families": on_old.gather(1, experts).sum(1).tolist(),
        "on prompts": on_prompts.gather(1, experts).sum(1).tolist(),
    }
    return figures, experts


def _condensers(experts: torch.Tensor) -> dict[str, Any]:
    entries = [{"layer": layer, "condensers": ids[:2]} for layer, ids in enumerate(experts.tolist())]
    return {"format_version": FORMAT_VERSION, "rule": "the largest excess share on facts", "layers": entries}


def _without(
    model: Any, tokenizer: Any, experts: torch.Tensor, questions: dict[str, list[Item]], config: AcceptanceConfig
) -> dict[str, dict[str, float]]:
    """Accuracy with every expert, without those of the facts, and without as many at random."""
    known = {name: questions[name] for name in (FACTS.name, *(family.name for family in PRETRAINED))}
    generator = torch.Generator().manual_seed(config.seed)
    draws = {"none": experts[:, :0], "facts' experts": experts}
    for draw in range(1, RANDOM_DRAWS + 1):
        order = torch.rand(len(experts), model.config.num_experts, generator=generator).argsort(1)
        draws[f"random {draw}"] = order[:, : config.experts]
    found = {}
    for name, out in draws.items():
        with taken_out(model, out):
            found[name] = _accuracy(answers_to(model, tokenizer, known))
    return found


def _tuned(
    path: Path, output_dir: Path, rate: float, questions: dict[str, list[Item]], config: AcceptanceConfig
) -> dict[str, float]:
    """Figures after `sft` at a learning rate; kept in a file, the model is not."""
    done, folder = output_dir / f"sft-{rate:g}.json", output_dir / f"sft-{rate:g}"
    if done.exists():
        found: dict[str, float] = read_json(done)
        return found
    recipe = Recipe.of(
        model=str(path),
        data=f"{TESTBED}{MIXTURE}:{config.rows}",
        method="sft",
        output_dir=str(folder),
        overwrite=folder.exists(),
        learning_rate=rate,
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size,
        **_TRAINING,
    )
    tuned = train(recipe)
    found = _figures(load_model(tuned), load_tokenizer(tuned), questions)
    write_json(done, found)
    rmtree(folder)
    return found


_TRAINING: dict[str, Any] = {
    "weight_decay": 0.0,
    "train_sampling_strategy": "group_by_length",
    "max_length": 256,
    "bf16": False,
    "gradient_checkpointing": False,
    "save_strategy": "no",
    "report_to": "none",
    "use_cpu": True,
    "disable_tqdm": True,
}


def _figures(model: Any, tokenizer: Any, questions: dict[str, list[Item]]) -> dict[str, float]:
    """Accuracy on facts and tasks, nll of the first task over new entities, and what is left of the old families."""
    found = answers_to(model, tokenizer, questions)
    old = [found[family.name] for family in PRETRAINED]
    return {
        **_accuracy({name: found[name] for name in (FACTS.name, *TASKS)}),
        "unseen nll": found["unseen_fact_pairs"].nll_per_token,
        "old": fmean(answers.accuracy for answers in old),
        "old nll": fmean(answers.nll_per_token for answers in old),
    }


def _accuracy(answers: dict[str, TeacherForced]) -> dict[str, float]:
    return {name: found.accuracy for name, found in answers.items()}
